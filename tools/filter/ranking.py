"""Pairs held back from the adapter, ranked before and after it.

Legend: I images, C captions, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from models.ranks import Retrieval, retrieval
from runtime.errors import InputError
from runtime.flags import check_range, flag
from runtime.seed import generator
from tools.filter.pairs import Rows

BLOCK_NUMBERS = 2**22
"""Numbers of an embedding file that are in memory at a time."""
LARGEST_RANKING = 2 * 2**30
"""Bytes of the largest score matrix (float32) that is ranked."""


@dataclass(frozen=True)
class RankingConfig:
    """Flags of the pairs that are ranked before and after the adapter."""

    holdout: float = flag(0.1, "share of the images kept out of the adapter's training, with their captions; 0: none")
    holdout_images: int = flag(5000, "hold out so many images at most")
    test_images: str | None = flag(None, "rank these embeddings instead of held-out ones: FILE or FILE::NAME")
    test_captions: str | None = flag(None, "their captions, as many an image as in --captions")

    def __post_init__(self) -> None:
        check_range(self, "holdout", low=0.0, high=1.0, high_open=True)
        check_range(self, "holdout_images", low=2)
        if (self.test_images is None) != (self.test_captions is None):
            raise InputError("--test_images and --test_captions belong together; give both or neither")


def write_unit_rows(rows: Rows, path: Path) -> np.ndarray:
    """Write rows scaled to length 1 as float32 to an npy file, in blocks; return its memory map.

    Raises:
        InputError: a row that cannot be scaled (from reading it).
    """
    step = max(1, BLOCK_NUMBERS // rows.shape[1])
    target = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=rows.shape)
    for start in range(0, rows.shape[0], step):
        block = rows[start : start + step].astype(np.float64)
        block /= np.abs(block).max(axis=1, keepdims=True)  # squares of very long or short rows would leave the range
        target[start : start + step] = block / np.linalg.norm(block, axis=1, keepdims=True)
    target.flush()
    return target


class TakenRows(Protocol):
    """A matrix of which any rows can be had by their numbers."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return these rows in memory."""


@dataclass(frozen=True)
class RankedSet:
    """Images and captions that are ranked against each other.

    Attributes:
        images: (I,) numbers of the image rows.
        captions: (C,) numbers of the caption rows.
        image_of_caption: (C,) place in `images` of each caption's image.
    """

    images: np.ndarray
    captions: np.ndarray
    image_of_caption: np.ndarray

    def __post_init__(self) -> None:
        needed = 4 * len(self.images) * len(self.captions)
        if needed > LARGEST_RANKING:
            raise InputError(
                f"ranking {len(self.images)} images against {len(self.captions)} captions needs {needed / 2**30:.1f} "
                f"GiB of scores, more than {LARGEST_RANKING / 2**30:g}; lower --holdout_images or give fewer test rows"
            )

    @classmethod
    def whole(cls, image_of_caption: np.ndarray, num_images: int) -> RankedSet:
        """Return all rows of two files."""
        return cls(np.arange(num_images), np.arange(len(image_of_caption)), image_of_caption)

    @classmethod
    def held_out(cls, image_of_caption: np.ndarray, num_images: int, config: RankingConfig, seed: int) -> RankedSet:
        """Choose images at random, with all their captions.

        Raises:
            InputError: fewer than two images would be held out.
        """
        size = min(round(config.holdout * num_images), config.holdout_images)
        if size < 2:
            raise InputError(
                f"--holdout {config.holdout:g} of {num_images} images is {size}, too few to rank; raise it, or give 0"
            )
        order = torch.randperm(num_images, generator=generator(seed, "holdout")).numpy()
        images = np.sort(order[:size])
        captions = np.flatnonzero(np.isin(image_of_caption, images))
        return cls(images, captions, np.searchsorted(images, image_of_caption[captions]))

    def of(self, is_wanted: np.ndarray) -> RankedSet:
        """Return the same images with only some captions; is_wanted is of all caption rows."""
        own = is_wanted[self.captions]
        return RankedSet(self.images, self.captions[own], self.image_of_caption[own])

    def rank(self, images: TakenRows, captions: TakenRows) -> Retrieval:
        """Rank by cosine.

        Args:
            images: rows of length 1 of which `self.images` are taken.
            captions: likewise.
        """
        return retrieval(images[self.images] @ captions[self.captions].T, self.image_of_caption)
