"""Ranks where a caption may fit several images: R@K, mAP@R and R-Precision, both ways (ECCV Caption, ECCV 2022; CxC).

The ground truth is a list of pairs, not a column's owner. A query is what has at least one relevant item; everything
else competes. R is a query's own number of relevant items. Ties count against the model: of equal scores the irrelevant
come first. Legend: I images, C captions, P pairs, Q queries, G items of the gallery.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.ranks import BLOCK_BYTES, RECALLS
from runtime.errors import InputError


@dataclass(frozen=True)
class Relevance:
    """Relevant pairs of one direction, each once, ordered by query.

    Attributes:
        query: (P,) int64.
        item: (P,) int64.
    """

    query: np.ndarray
    item: np.ndarray

    @classmethod
    def of(cls, query: np.ndarray, item: np.ndarray) -> Relevance:
        """Order pairs (P,), (P,) by query and drop repeated ones."""
        pairs = np.unique(np.stack([query, item], axis=1).astype(np.int64), axis=0)
        return cls(pairs[:, 0].copy(), pairs[:, 1].copy())

    @property
    def num_queries(self) -> int:
        """Q."""
        return len(np.unique(self.query))


@dataclass(frozen=True)
class GroundTruth:
    """Relevant captions of images (`i2t`) and relevant images of captions (`t2i`), which need not be the same pairs."""

    i2t: Relevance
    t2i: Relevance


@dataclass(frozen=True)
class RelevanceRanks:
    """One direction's figures in percent, means over `num_queries` queries.

    Attributes:
        recall: share of queries with a relevant item among the first K, by K.
        map_at_r: mean over ranks 1 .. R of the precision there, counted where the item is relevant.
        r_precision: share of relevant items among the first R.
    """

    recall: dict[int, float]
    map_at_r: float
    r_precision: float
    num_queries: int

    def as_dict(self) -> dict[str, float]:
        """Return plain numbers by name."""
        recalls = {f"R@{k}": value for k, value in self.recall.items()}
        return recalls | {"mAP@R": self.map_at_r, "R-Precision": self.r_precision, "queries": self.num_queries}


@dataclass(frozen=True)
class RelevanceResult:
    """Figures of both directions."""

    i2t: RelevanceRanks
    t2i: RelevanceRanks

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers by name, for JSON."""
        return {"i2t": self.i2t.as_dict(), "t2i": self.t2i.as_dict()}


def _ranks_of_relevant(scores: np.ndarray, relevance: Relevance) -> Iterator[np.ndarray]:
    """Yield, for each query, the ranks (R,) of its relevant items, 1 is best, ascending.

    The j-th best relevant item comes after the j - 1 better ones and after every irrelevant item that scores at least
    as high. Rows are sorted a block at a time, so that a rank is a search and not a pass over the gallery.

    Args:
        scores: (queries, G).
        relevance: pairs, ordered by query.
    """
    queries, starts = np.unique(relevance.query, return_index=True)
    items = np.split(relevance.item, starts[1:])
    rows = max(1, BLOCK_BYTES // max(1, scores[:1].nbytes))
    for first in range(0, len(queries), rows):
        block = np.sort(scores[queries[first : first + rows]], axis=1)
        for row, query, own in zip(block, queries[first:], items[first:], strict=False):
            relevant = np.sort(scores[query, own])
            at_least = len(row) - np.searchsorted(row, relevant[::-1], side="left")
            own_at_least = len(own) - np.searchsorted(relevant, relevant[::-1], side="left")
            yield at_least - own_at_least + np.arange(1, len(own) + 1)


def rank_relevance(scores: np.ndarray, relevance: Relevance) -> RelevanceRanks:
    """Rank one direction.

    Args:
        scores: (queries, G) finite scores.
        relevance: at least one pair.

    Example:
        One query, relevant items 0 and 2, scores [0.9, 0.8, 0.7, 0.6]: ranks 1 and 3, R = 2, R@1 = 100,
        R-Precision = 1 of 2 = 50, mAP@R = (1/1 + 0) / 2 = 50.
    """
    best, average, precision = [], [], []
    for ranks in _ranks_of_relevant(scores, relevance):
        hits = ranks <= len(ranks)  # among the first R
        best.append(ranks[0])
        average.append((hits * np.arange(1, len(ranks) + 1) / ranks).mean())
        precision.append(hits.mean())
    first = np.array(best)
    return RelevanceRanks(
        recall={k: 100.0 * float((first <= k).mean()) for k in RECALLS},
        map_at_r=100.0 * float(np.mean(average)),
        r_precision=100.0 * float(np.mean(precision)),
        num_queries=len(first),
    )


def relevance_result(sims: np.ndarray, truth: GroundTruth) -> RelevanceResult:
    """Rank images against captions and captions against images.

    Args:
        sims: (I, C) finite scores.
        truth: relevant pairs of both directions, at least one each.

    Raises:
        InputError: a score is not finite.
    """
    if not np.isfinite([sims.min(), sims.max()]).all():
        raise InputError("similarities hold NaN or infinity and cannot be ranked: the network has diverged")
    return RelevanceResult(rank_relevance(sims, truth.i2t), rank_relevance(sims.T, truth.t2i))
