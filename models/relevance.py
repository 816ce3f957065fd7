"""Ranks where a caption may fit several images: R@K, mAP@R and R-Precision, both ways (ECCV Caption, ECCV 2022; CxC).

The ground truth is a list of pairs, not a column's owner. A query is what has at least one relevant item; everything
else competes. R is a query's own number of relevant items. Ties count against the model: of equal scores the irrelevant
come first. Legend: I images, C captions, P pairs, G items of the gallery.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.ranks import BLOCK_BYTES, RECALLS
from runtime.errors import InputError

Truth = Mapping[str, np.ndarray]
"""`i2t`: relevant pairs (P, 2) of an image and a caption; `t2i`: of a caption and an image, perhaps other pairs."""


def rank_relevance(scores: np.ndarray, pairs: np.ndarray) -> dict[str, float]:
    """Rank one direction.

    The j-th best relevant item comes after the j - 1 better ones and after every irrelevant item that scores at least
    as high. Rows are sorted a block at a time, so that a rank is a search and not a pass over the gallery.

    Args:
        scores: (queries, G) finite scores.
        pairs: (P, 2) query and relevant item, at least one pair; repeated ones count once.

    Returns:
        Means over the queries, in percent: `R@K`, the share of queries with a relevant item among the first K; `mAP@R`,
        the mean over ranks 1 .. R of the precision there, counted where the item is relevant; `R-Precision`, the share
        of relevant items among the first R. And the number of `queries`.

    Example:
        One query, relevant items 0 and 2, scores [0.9, 0.8, 0.7, 0.6]: ranks 1 and 3, R = 2, R@1 = 100,
        R-Precision = 1 of 2 = 50, mAP@R = (1/1 + 0) / 2 = 50.
    """
    pairs = np.unique(pairs, axis=0)
    queries, starts = np.unique(pairs[:, 0], return_index=True)
    items = np.split(pairs[:, 1], starts[1:])
    rows = max(1, BLOCK_BYTES // max(1, scores[:1].nbytes))
    best, average, precision = [], [], []
    for first in range(0, len(queries), rows):
        block = np.sort(scores[queries[first : first + rows]], axis=1)
        for row, query, own in zip(block, queries[first:], items[first:], strict=False):
            relevant, numbers = np.sort(scores[query, own]), np.arange(1, len(own) + 1)
            at_least = len(row) - np.searchsorted(row, relevant[::-1], side="left")
            own_at_least = len(own) - np.searchsorted(relevant, relevant[::-1], side="left")
            ranks = at_least - own_at_least + numbers
            hits = ranks <= len(ranks)  # among the first R
            best.append(ranks[0])
            average.append((hits * numbers / ranks).mean())
            precision.append(hits.mean())
    found = {f"R@{k}": 100.0 * float((np.array(best) <= k).mean()) for k in RECALLS}
    found |= {"mAP@R": 100.0 * float(np.mean(average)), "R-Precision": 100.0 * float(np.mean(precision))}
    return found | {"queries": len(best)}


def relevance_result(sims: np.ndarray, truth: Truth) -> dict[str, dict[str, float]]:
    """Rank images against captions (`i2t`) and captions against images (`t2i`), as `rank_relevance` does.

    Args:
        sims: (I, C) finite scores.
        truth: relevant pairs of both directions, at least one each.

    Raises:
        InputError: a score is not finite.
    """
    if not np.isfinite([sims.min(), sims.max()]).all():
        raise InputError("similarities hold NaN or infinity and cannot be ranked: the network has diverged")
    return {"i2t": rank_relevance(sims, truth["i2t"]), "t2i": rank_relevance(sims.T, truth["t2i"])}
