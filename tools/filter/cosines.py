"""Cosines of paired embeddings, read a few rows at a time. Legend: n pairs, D embed size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.errors import InputError

ROW_CHUNK = 2**20
"""Numbers of one side's embeddings that are float64 at a time."""


def _row_chunks(side: Any, name: str, rows: int, *, start: int = 0) -> Iterator[np.ndarray]:
    """Yield float64 rows of length 1, some at a time."""
    while start < side.shape[0]:
        part = side[start : start + rows]
        if isinstance(part, Tensor):
            part = part.detach().to(device="cpu", dtype=torch.float64).numpy()
        part = np.array(part, dtype=np.float64)
        peak = np.abs(part).max(axis=1, initial=0.0)
        if not np.isfinite(peak).all():
            raise InputError(f"{name} embedding {start + int((~np.isfinite(peak)).argmax())} holds NaN or infinity")
        if not peak.all():
            raise InputError(
                f"{name} embedding {start + int((peak == 0).argmax())} is zero: it has no cosine; drop the pair"
            )
        part /= peak[:, None]  # squares of very long or short vectors would overflow or vanish
        part /= np.sqrt(np.einsum("nd,nd->n", part, part))[:, None]
        yield part
        start += rows


def pair_similarity(images: Any, captions: Any) -> np.ndarray:
    """Return the cosine of each given pair: s_i = <f_i, g_i> / (|f_i| |g_i|) (*published*).

    Args:
        images: (n, D) numpy (memory maps too), torch, or anything with a shape whose rows can be sliced (HDF5).
        captions: (n, D) likewise.

    Returns:
        (n,) float64 in [-1, 1]. A logit scale does not matter.

    Raises:
        InputError: other counts, widths or dimensions; a zero vector, NaN or infinity (names the row).
    """
    shapes = tuple(images.shape), tuple(captions.shape)
    if len(shapes[0]) != 2 or len(shapes[1]) != 2:
        raise InputError(f"embeddings must be (pairs, dimensions); the shapes are {shapes[0]} and {shapes[1]}")
    if shapes[0][0] != shapes[1][0]:
        raise InputError(
            f"{shapes[0][0]} image embeddings and {shapes[1][0]} caption embeddings: row i is pair i of both"
        )
    if shapes[0][1] != shapes[1][1]:
        raise InputError(f"image embeddings have {shapes[0][1]} dimensions, caption embeddings {shapes[1][1]}")
    rows = max(1, ROW_CHUNK // max(1, shapes[0][1]))
    pairs = zip(_row_chunks(images, "image", rows), _row_chunks(captions, "caption", rows), strict=True)
    parts = [np.einsum("nd,nd->n", image, caption) for image, caption in pairs]
    return np.clip(np.concatenate([np.empty(0), *parts]), -1.0, 1.0)
