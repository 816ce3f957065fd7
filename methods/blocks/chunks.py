"""Sums and elementwise functions over millions of pairs, a cache-sized chunk at a time.

Fitting two components by moments needs of all pairs only three sums: of r, r x and r x^2, where r is a pair's share in
the first component; the second component's are what is left of the totals. Chunks are added up in their order, and are
smaller than what torch gives to several threads: same bits with any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

CHUNK = 16384
"""Pairs at a time: five float64 columns of so many, 640 KiB, stay in a core's cache; torch splits work above 32767."""

Chunk = tuple[Tensor, ...]
"""The same pairs of each column."""


def in_chunks(*columns: np.ndarray) -> list[Chunk]:
    """Return views of CHUNK pairs at a time; columns (n,)."""
    return list(zip(*(torch.from_numpy(column).split(CHUNK) for column in columns), strict=True))


def chunkwise(function: Callable[[Tensor], Tensor], x: np.ndarray) -> np.ndarray:
    """Apply an elementwise function to x (n,)."""
    result = np.empty_like(x)
    for source, target in in_chunks(x, result):
        target.copy_(function(source))
    return result


def add_up(chunks: list[Chunk], sums: Callable[..., list[float]]) -> np.ndarray:
    """Add up what `sums(*chunk)` returns, (number of sums,)."""
    return np.sum([sums(*chunk) for chunk in chunks], axis=0)


def moments(share: Tensor, x: Tensor) -> list[float]:
    """Return the sums of r, r x and r x^2. The tensor of shares r is used up."""
    mass = float(share.sum())
    sum_x = float(share.mul_(x).sum())
    return [mass, sum_x, float(share.mul_(x).sum())]


def all_moments(x: Tensor, *others: Tensor) -> list[float]:
    """Return the sums of 1, x and x^2; for `add_up`, whatever else a chunk holds."""
    return moments(torch.ones_like(x), x)
