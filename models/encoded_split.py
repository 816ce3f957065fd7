"""A split, encoded to be ranked: images all at once and kept, captions in blocks of similar length.

Legend: I images, C captions, R regions, D embed size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.attention import masked_mean, word_mask
from models.matcher import Matcher, evaluating
from models.similarity import EncodedCaptions, EncodedImages
from runtime.distributed import ALONE, Processes

IMAGE_BLOCK = 256
CAPTION_BLOCK = 512
"""So many images or captions are encoded at a time."""


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
    return processes.summed_array(sims)


def with_mean(sims: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the mean of several score matrices under `mean`."""
    if len(sims) == 1:
        return sims
    first, *others = sims.values()
    mean = first.copy()
    for other in others:
        mean += other
    mean /= np.float32(len(sims))
    return {**sims, "mean": mean}
