"""Several networks on one split: a score matrix of each and their mean, ranked as they come.

Legend: I images, C captions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from models.encoded_split import Split, similarities
from models.matcher import Matcher
from models.ranks import Retrieval, folds_of, mean_retrieval, retrieval
from models.relevance import GroundTruth, RelevanceResult, relevance_result

Scores = Iterable[tuple[str, np.ndarray]]
"""Names and score matrices (I, C), one after the other."""


def scores_in_turn(
    matchers: Mapping[str, Matcher], split: Split, device: torch.device
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each network's scores and, of several, their `mean`; what was yielded is written over by the next.

    Never more than two matrices are in memory: at 5,000 x 25,000 each has half a gigabyte.
    """
    mean: np.ndarray | None = None
    for name, matcher in matchers.items():
        sims = similarities(matcher, split, device)
        yield name, sims
        if len(matchers) > 1:
            mean = sims if mean is None else np.add(mean, sims, out=mean)
        del sims
    if mean is not None:
        mean /= np.float32(len(matchers))
        yield "mean", mean


@dataclass(frozen=True)
class Evaluated:
    """Results by name of a network or `mean`.

    Attributes:
        whole: of the whole split.
        folds: means over its folds, if it has folds.
        relevance: by a ground truth of many to many, if there is one.
    """

    whole: dict[str, Retrieval]
    folds: dict[str, Retrieval]
    relevance: dict[str, RelevanceResult]


def rank_scores(
    scores: Scores,
    image_of_caption: np.ndarray,
    *,
    fold_images: int | None = None,
    truth: GroundTruth | None = None,
    keep: Callable[[str, np.ndarray], None] = lambda name, sims: None,
) -> Evaluated:
    """Rank score matrices as they come; folds are cut from the whole matrix.

    Args:
        scores: names and matrices (I, C).
        image_of_caption: (C,).
        fold_images: rank in consecutive folds of so many images, too.
        truth: rank by it, too.
        keep: told every matrix.
    """
    found = Evaluated({}, {}, {})
    for name, sims in scores:
        found.whole[name] = retrieval(sims, image_of_caption)
        if fold_images is not None:
            found.folds[name] = mean_retrieval(folds_of(sims, image_of_caption, fold_images))
        if truth is not None:
            found.relevance[name] = relevance_result(sims, truth)
        keep(name, sims)
        del sims  # or it would be kept while the next one is computed
    return found
