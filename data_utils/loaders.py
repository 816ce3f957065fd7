"""Batches of pairs in a seeded order; worker processes change when a batch is read, never what is in it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data_utils.batch import Batch
from data_utils.precomputed import PrecomputedSplit
from runtime.errors import InputError

MIN_BATCH = 2
"""A pair alone has no negatives, and batch normalisation no variance: a last batch of one pair is left out."""


def shuffled_batches(pairs: np.ndarray, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Shuffle the pair numbers (n,) and cut them into batches of at most `batch_size` and at least 2."""
    order = torch.from_numpy(pairs)[torch.randperm(len(pairs), generator=generator)]
    return [batch for batch in order.split(batch_size) if len(batch) >= MIN_BATCH]


def load(split: PrecomputedSplit, batches: list[Tensor], workers: int = 0) -> Iterator[Batch]:
    """Yield the batches in the given order, read by `workers` processes ahead of time (0: in this process)."""
    loader: DataLoader[Batch] = DataLoader(
        split,  # type: ignore[arg-type]
        batch_size=None,
        sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=False,
        multiprocessing_context="fork" if workers else None,
    )
    try:
        yield from loader
    except InputError as error:  # a worker's comes with its traceback in front of the message
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from None


def load_forever(
    split: PrecomputedSplit, pairs: np.ndarray, batch_size: int, generator: torch.Generator, workers: int = 0
) -> Iterator[Batch]:
    """Yield shuffled batches of `pairs` without end, shuffled anew each time round."""
    while True:
        yield from load(split, shuffled_batches(pairs, batch_size, generator), workers)


def covering_batches(pairs: np.ndarray, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Do what `shuffled_batches` does, but leave no pair out: a pair left alone joins the batch before it."""
    batches = list(torch.from_numpy(pairs)[torch.randperm(len(pairs), generator=generator)].split(batch_size))
    if len(batches) > 1 and len(batches[-1]) < MIN_BATCH:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
