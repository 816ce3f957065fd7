"""The networks of a checkpoint, a split that is encoded to be ranked, and the scores of several networks, ranked.

Images are encoded all at once and kept, captions in blocks of similar length.
Legend: I images, C captions, R regions, D embed size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from models.attention import masked_mean, word_mask
from models.matcher import Matcher, MatcherConfig, MatcherShape, evaluating
from models.ranks import Retrieval, folds_of, mean_retrieval, retrieval
from models.relevance import Truth, relevance_result
from models.similarity import EncodedCaptions, EncodedImages
from runtime.distributed import ALONE, Processes
from runtime.errors import InputError
from runtime.flags import from_stored

Scores = Iterable[tuple[str, np.ndarray]]
"""Names and score matrices (I, C), one after the other."""

IMAGE_BLOCK = 256
CAPTION_BLOCK = 512
"""So many images or captions are encoded at a time."""


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
    if differing := misfit(expected, weights):
        raise InputError(f"{damaged}: {differing}")


def misfit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Say which of a checkpoint's weights is the first that is not as expected, and how; "" if all are."""
    for name in dict.fromkeys((*expected, *weights)):
        own, given = expected.get(name), weights.get(name)
        kinds = [None if t is None else (t.shape, t.is_floating_point()) for t in (own, given)]
        if kinds[0] != kinds[1]:
            there, here = ("absent" if t is None else f"{t.dtype} {tuple(t.shape)}" for t in (given, own))
            return f"{name} is {there} there and {here} here"
    return ""


# -- a split --------------------------------------------------------------------------------------------------------


class Split(Protocol):
    """What is encoded."""

    num_images: int
    lengths: np.ndarray

    def read_images(self, images: np.ndarray) -> Tensor:
        """Return the features (n, R, dimensions) of image numbers (n,)."""

    def tokens(self, captions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return token ids (n, W) and lengths (n,) of caption numbers (n,)."""


@dataclass(frozen=True)
class EncodedSplit:
    """Everything that is ranked, encoded.

    Attributes:
        images: all I images.
        blocks: captions of similar length.
        columns: which captions each block holds; together 0 .. C - 1, each once.
    """

    images: EncodedImages
    blocks: list[EncodedCaptions]
    columns: list[Tensor]

    @property
    def shape(self) -> tuple[int, int]:
        """(I, C)."""
        return len(self.images.regions), sum(len(c) for c in self.columns)


def image_vectors(images: EncodedImages) -> Tensor:
    """Return what the similarity pools of images, next to the plain mean of their regions: (I, 2 D)."""
    return torch.cat([images.pooled, images.regions.mean(dim=1)], dim=1)


def caption_vectors(captions: EncodedCaptions) -> Tensor:
    """Return what the similarity pools of captions, next to the plain mean of their words: (C, 2 D)."""
    mask = word_mask(captions.lengths, captions.words.shape[1], captions.words.device)
    return torch.cat([captions.pooled, masked_mean(captions.words, mask)], dim=1)


def encoded_images(
    matcher: Matcher, split: Split, device: torch.device, numbers: np.ndarray | None = None
) -> EncodedImages:
    """Encode image numbers (n,), a block at a time; None: all images of the split."""
    numbers = np.arange(split.num_images) if numbers is None else numbers
    images: EncodedImages | None = None
    for rows in image_blocks(len(numbers)):
        part = matcher.encode_images(split.read_images(numbers[rows]).to(device))
        if images is None:  # filled in place: joining blocks at the end would hold them twice
            images = EncodedImages(*(t.new_empty(len(numbers), *t.shape[1:]) for t in (part.regions, part.pooled)))
        place = slice(int(rows[0]), int(rows[-1]) + 1)
        images.regions[place], images.pooled[place] = part.regions, part.pooled
    assert images is not None
    return images


def image_blocks(num_images: int, start: int = 0) -> Iterator[np.ndarray]:
    """Yield image numbers from `start` on as they are encoded, a block at a time."""
    for first in range(start, num_images, IMAGE_BLOCK):
        yield np.arange(first, min(first + IMAGE_BLOCK, num_images))


def encoded_captions(
    matcher: Matcher, split: Split, device: torch.device, start: int = 0, processes: Processes = ALONE
) -> Iterator[tuple[np.ndarray, EncodedCaptions]]:
    """Yield caption numbers (n,), by length, and those captions encoded, a block at a time; every caption once.

    Of the captions in that order the first `start` are left out. Of several processes each gets some of the blocks.
    """
    by_length = np.argsort(split.lengths, kind="stable")
    for first in processes.mine(range(start, len(by_length), CAPTION_BLOCK)):
        chosen = by_length[first : first + CAPTION_BLOCK]
        tokens, lengths = split.tokens(chosen)
        yield chosen, matcher.encode_captions(tokens.to(device), lengths)


def encode_split(matcher: Matcher, split: Split, device: torch.device) -> EncodedSplit:
    """Encode a whole split and keep it."""
    with evaluating(matcher):
        images = encoded_images(matcher, split, device)
        captions = list(encoded_captions(matcher, split, device))
    return EncodedSplit(images, [side for _, side in captions], [torch.from_numpy(chosen) for chosen, _ in captions])


def similarities(matcher: Matcher, split: Split, device: torch.device, processes: Processes = ALONE) -> np.ndarray:
    """Return all scores of a split, (I, C) float32. Images are kept encoded, captions pass.

    Of several processes each scores some of the captions, and all return the whole.
    """
    sims = np.zeros((split.num_images, len(split.lengths)), dtype=np.float32)
    with evaluating(matcher):
        images = encoded_images(matcher, split, device)
        for chosen, captions in encoded_captions(matcher, split, device, processes=processes):
            sims[:, chosen] = matcher.similarity(images, captions).cpu().numpy()
    processes.summed(torch.from_numpy(sims))
    return sims


# -- several networks -----------------------------------------------------------------------------------------------


def scores_in_turn(
    matchers: Mapping[str, Matcher], split: Split, device: torch.device, processes: Processes = ALONE
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each network's scores and, of several, their `mean`; what was yielded is written over by the next.

    Never more than two matrices are in memory: at 5,000 x 25,000 each has half a gigabyte.
    """
    mean: np.ndarray | None = None
    for name, matcher in matchers.items():
        sims = similarities(matcher, split, device, processes)
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
    relevance: dict[str, dict[str, dict[str, float]]]


def rank_scores(
    scores: Scores,
    image_of_caption: np.ndarray,
    *,
    fold_images: int | None = None,
    truth: Truth | None = None,
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
