"""The networks of a checkpoint, and several networks on one split: a score matrix of each and their mean, ranked.

Legend: I images, C captions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.encoded_split import Split, similarities
from models.matcher import Matcher, MatcherConfig, MatcherShape
from models.ranks import Retrieval, folds_of, mean_retrieval, retrieval
from models.relevance import GroundTruth, RelevanceResult, relevance_result
from runtime.errors import InputError
from runtime.flags import from_stored

Scores = Iterable[tuple[str, np.ndarray]]
"""Names and score matrices (I, C), one after the other."""


def restore(checkpoint: dict[str, Any], path: str) -> list[Matcher]:
    """Build a checkpoint's networks with their weights.

    Raises:
        InputError: the weights do not fit the dimensions that the checkpoint itself states.
    """
    config = from_stored(
        MatcherConfig, checkpoint["config"]["matcher"], f"{path} holds a network that this suite does not have"
    )
    shape = from_stored(MatcherShape, checkpoint["config"]["shape"], f"{path} is damaged: its dimensions")
    for weights in checkpoint["networks"]:
        _check_sizes(config, shape, weights, path)
    matchers = [Matcher(config, shape) for _ in checkpoint["networks"]]
    for matcher, weights in zip(matchers, checkpoint["networks"], strict=True):
        matcher.load_state_dict(weights)
    return matchers


def _check_sizes(config: MatcherConfig, shape: MatcherShape, weights: Mapping[str, Tensor], path: str) -> None:
    """Compare weights with the network that they are for, before it takes memory.

    Raises:
        InputError: they are not its weights.
    """
    damaged = f"{path} is damaged: its weights do not fit its own dimensions"
    if max(config.num_layers, config.sgr_step) > len(weights):  # each layer and step has weights of its own
        if config.num_layers > len(weights) or config.module_name == "SGR":
            raise InputError(f"{damaged}: {config.num_layers} layers and {config.sgr_step} steps")
    if min(shape.vocabulary_size, shape.num_regions, shape.region_dim) < 1:
        raise InputError(f"{damaged}: {shape}")
    try:
        with torch.device("meta"):
            expected = Matcher(config, shape).state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{damaged} ({error})") from None
    for name in dict.fromkeys((*expected, *weights)):
        own, given = (tensors.get(name) for tensors in (expected, weights))
        if (
            own is None
            or given is None
            or own.shape != given.shape
            or own.is_floating_point() != given.is_floating_point()
        ):
            said = " and ".join("absent" if t is None else f"{t.dtype} {tuple(t.shape)}" for t in (given, own))
            raise InputError(f"{damaged}: {name} is {said}")


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
