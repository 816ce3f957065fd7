"""Ranks of a score matrix in both directions: recalls at 1, 5 and 10, median and mean rank, their sum.

Rows of every score matrix are images, columns captions. Which image a caption belongs to is data (`image_of_caption`),
never a number of captions an image. A position is a count of better wrong items, so nothing is sorted: two comparisons
a score, a block of rows at a time. Legend: I images, C captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import InputError

RECALLS = (1, 5, 10)

BLOCK_BYTES = 8 * 2**20
"""So much of a score matrix is compared at a time; the comparison's result then stays in the cache."""


@dataclass(frozen=True)
class Ranks:
    """Recalls in percent and rank statistics (1 is best) of one direction."""

    recall: dict[int, float]
    median_rank: float
    mean_rank: float

    @classmethod
    def of(cls, positions: np.ndarray) -> Ranks:
        """Summarise positions (n,), 0 for a hit at the top. The median is rounded down, as in the lineage."""
        return cls(
            recall={k: 100.0 * float((positions < k).mean()) for k in RECALLS},
            median_rank=float(np.floor(np.median(positions)) + 1),
            mean_rank=float(positions.mean() + 1),
        )


@dataclass(frozen=True)
class Retrieval:
    """Image-to-text and text-to-image ranks of one similarity matrix."""

    i2t: Ranks
    t2i: Ranks

    @property
    def r_sum(self) -> float:
        """Sum of the six recalls."""
        return sum(self.i2t.recall.values()) + sum(self.t2i.recall.values())

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers by name, for JSON."""
        content: dict[str, Any] = {}
        for name, ranks in (("i2t", self.i2t), ("t2i", self.t2i)):
            content[name] = {f"R@{k}": ranks.recall[k] for k in RECALLS}
            content[name] |= {"median_rank": ranks.median_rank, "mean_rank": ranks.mean_rank}
        return content | {"rSum": self.r_sum}


@dataclass(frozen=True)
class Positions:
    """How many wrong items score at least as high as the right one, 0 for a hit at the top.

    Attributes:
        i2t: (images with a caption,) captions of other images against the image's best own caption.
        t2i: (C,) other images against the caption's own.
    """

    i2t: np.ndarray
    t2i: np.ndarray


def positions(sims: np.ndarray, image_of_caption: np.ndarray) -> Positions:
    """Count the wrong items before the right one, both ways.

    Ties count against the model, so that a collapsed one scores what it deserves. An image without a caption is no
    query, but it competes for every caption.

    Args:
        sims: (I, C) scores, none of them NaN.
        image_of_caption: (C,) the row each caption belongs to, in any order, any number an image.
    """
    num_images, num_captions = sims.shape
    own = sims[image_of_caption, np.arange(num_captions)]
    best = np.full(num_images, -np.inf, dtype=sims.dtype)
    np.maximum.at(best, image_of_caption, own)
    i2t = np.empty(num_images, dtype=np.int64)
    t2i = np.full(num_captions, -1, dtype=np.int64)  # the caption's own image is counted with the others
    rows = max(1, BLOCK_BYTES // max(1, sims[:1].nbytes))
    for start in range(0, num_images, rows):
        block = sims[start : start + rows]
        i2t[start : start + rows] = np.count_nonzero(block >= best[start : start + rows, None], axis=1)
        t2i += np.count_nonzero(block >= own, axis=0)
    i2t -= np.bincount(image_of_caption[own == best[image_of_caption]], minlength=num_images)  # own ones, tied at best
    has_caption = np.bincount(image_of_caption, minlength=num_images) > 0
    return Positions(i2t[has_caption], t2i)


def retrieval(sims: np.ndarray, image_of_caption: np.ndarray) -> Retrieval:
    """Rank both ways.

    Args:
        sims: (I, C) finite scores.
        image_of_caption: (C,) the row each caption belongs to.

    Example:
        4 images x 8 captions with `image_of_caption = [0, 0, 1, 1, 2, 2, 3, 3]`: image 1 is found by its better caption
        of columns 2 and 3; caption 5 is found by the place of row 2 in its column.

    Raises:
        InputError: a score is not finite.
        ValueError: shapes disagree.
    """
    if sims.ndim != 2 or sims.shape[1] != len(image_of_caption):
        raise ValueError(f"sims {sims.shape} do not fit {len(image_of_caption)} captions")
    if not np.isfinite([sims.min(), sims.max()]).all():  # NaN passes through both; no mask of the matrix's size
        raise InputError("similarities hold NaN or infinity and cannot be ranked: the network has diverged")
    found = positions(sims, image_of_caption)
    return Retrieval(i2t=Ranks.of(found.i2t), t2i=Ranks.of(found.t2i))


def mean_retrieval(parts: Sequence[Retrieval]) -> Retrieval:
    """Average every number over folds."""

    def average(ranks: Sequence[Ranks]) -> Ranks:
        return Ranks(
            recall={k: float(np.mean([r.recall[k] for r in ranks])) for k in RECALLS},
            median_rank=float(np.mean([r.median_rank for r in ranks])),
            mean_rank=float(np.mean([r.mean_rank for r in ranks])),
        )

    return Retrieval(average([p.i2t for p in parts]), average([p.t2i for p in parts]))


def folds_of(sims: np.ndarray, image_of_caption: np.ndarray, fold_images: int) -> list[Retrieval]:
    """Rank within consecutive folds of `fold_images` images and their captions (COCO's 1K protocol)."""
    found = []
    for start in range(0, len(sims), fold_images):
        images = np.arange(start, min(start + fold_images, len(sims)))
        captions = np.flatnonzero(np.isin(image_of_caption, images))
        found.append(retrieval(sims[np.ix_(images, captions)], image_of_caption[captions] - start))
    return found
