"""Pairs of stored embeddings and their similarities, without either file being in memory.

Caption k belongs to image `image_of_caption[k]`: row k of both files, or, with n captions an image, image k // n.
Legend: I images, C captions = pairs, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from methods.blocks.similarity_modes import pair_similarity
from runtime.errors import InputError
from tools.filter.files import Stored, open_embeddings


class Rows(Protocol):
    """A matrix of which consecutive rows can be had: `Stored`, numpy, or embeddings that are computed on the way."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, D)."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Return consecutive rows in memory."""


@dataclass(frozen=True)
class _ImageOfPair:
    """Image rows repeated for their captions, (C, D), in blocks of consecutive pairs."""

    images: Rows
    image_of_caption: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.image_of_caption), self.images.shape[1])

    def __getitem__(self, pairs: slice) -> np.ndarray:
        rows = self.image_of_caption[pairs]
        return self.images[int(rows[0]) : int(rows[-1]) + 1][rows - rows[0]]


def similarity_of(images: Rows, captions: Rows, image_of_caption: np.ndarray) -> np.ndarray:
    """Return the cosine of each caption and its image, (C,) float64, reading both once, in blocks.

    Args:
        images: (I, D).
        captions: (C, D).
        image_of_caption: (C,) non-decreasing.

    Raises:
        InputError: NaN, infinity or a row of zeros.
    """
    return pair_similarity(_ImageOfPair(images, image_of_caption), captions)


@dataclass(frozen=True)
class EmbeddingPairs:
    """Two embedding files whose rows belong together.

    Attributes:
        images: (I, D).
        captions: (C, D), C = captions_per_image * I, in image order.
        captions_per_image: n.

    Raises:
        InputError: other counts or widths.
    """

    images: Stored
    captions: Stored
    captions_per_image: int = 1

    def __post_init__(self) -> None:
        (num_images, image_dim), (num_captions, caption_dim) = self.images.shape, self.captions.shape
        if image_dim != caption_dim:
            raise InputError(
                f"{self.images.name} has {image_dim} dimensions, {self.captions.name} has {caption_dim}; both must "
                "come from one joint embedding space"
            )
        if num_captions != self.captions_per_image * num_images:
            share, rest = divmod(num_captions, num_images)
            fits = not rest and share > 0
            advice = f"if {share} captions in a row belong to each image, give --captions_per_image {share}"
            raise InputError(
                f"{self.images.name} has {num_images} rows, {self.captions.name} has {num_captions}; expected "
                f"{self.captions_per_image} caption{'s' * (self.captions_per_image > 1)} an image"
                + (f"; {advice}" if fits else ": the files are not of the same pairs")
            )

    @classmethod
    def open(cls, images: str, captions: str, captions_per_image: int = 1) -> EmbeddingPairs:
        """Open two files.

        Raises:
            InputError: they cannot be read or do not fit together.
        """
        return cls(open_embeddings(images), open_embeddings(captions), captions_per_image)

    def __len__(self) -> int:
        return len(self.captions)

    @cached_property
    def image_of_caption(self) -> np.ndarray:
        """The image row of each caption, (C,) int64, non-decreasing."""
        return np.arange(len(self)) // self.captions_per_image

    def similarity(self) -> np.ndarray:
        """Return the cosine of each pair, (C,) float64.

        Raises:
            InputError: NaN, infinity or a row of zeros (names file and row).
        """
        return similarity_of(self.images, self.captions, self.image_of_caption)

    def describe(self) -> str:
        """Return one line that says what the files hold."""
        each = "" if self.captions_per_image == 1 else f" ({self.captions_per_image} an image)"
        return f"{len(self.images)} images, {len(self)} captions{each}, {self.images.shape[1]} dimensions"
