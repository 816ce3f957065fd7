"""Pairs of stored embeddings, their similarities, and the filter: modes, clean probabilities, the pairs that are kept.

Caption k belongs to image `image_of_caption[k]`: row k of both files, or, with n captions an image, image k // n.
Neither file is in memory. Legend: I images, C captions = n pairs, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from methods.blocks.modes import ModesConfig, SimilarityModes, clean_posterior, fit_similarity_modes, select
from runtime.errors import InputError
from runtime.flags import check_range, flag
from tools.filter.files import Stored, open_embeddings

ROW_CHUNK = 2**20
"""Numbers of one side's embeddings that are float64 at a time."""


class Rows(Protocol):
    """A matrix of which consecutive rows can be had: `Stored`, numpy, or embeddings that are computed on the way."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, D)."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Return consecutive rows in memory."""


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
        InputError: a zero vector, NaN or infinity (names the row).
    """
    assert len(images.shape) == 2 and tuple(images.shape) == tuple(captions.shape)
    rows = max(1, ROW_CHUNK // max(1, images.shape[1]))
    pairs = zip(_row_chunks(images, "image", rows), _row_chunks(captions, "caption", rows), strict=True)
    parts = [np.einsum("nd,nd->n", image, caption) for image, caption in pairs]
    return np.clip(np.concatenate([np.empty(0), *parts]), -1.0, 1.0)


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
            advice = ": the files are not of the same pairs"
            if share and not rest:
                advice = f"; if {share} captions in a row belong to each image, give --captions_per_image {share}"
            raise InputError(
                f"{self.images.name} has {num_images} rows, {self.captions.name} has {num_captions}; expected "
                f"{self.captions_per_image} caption{'s' * (self.captions_per_image > 1)} an image{advice}"
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


@dataclass(frozen=True)
class FilterConfig(ModesConfig):
    """Flags of the filter."""

    p_threshold: float = flag(0.5, "keep pairs whose clean probability is above this")
    seed: int = flag(0, "seed of the fit's random starts, the held-out pairs and the adapter")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "p_threshold", low=0.0, high=1.0, high_open=True)
        check_range(self, "seed", low=0)


@dataclass(frozen=True)
class Filtered:
    """What the filter found.

    Attributes:
        similarity: (n,) cosines.
        modes: of the similarities.
        probability: (n,) clean probability.
        is_clean: (n,) bool, the pairs that are kept; at least one.
    """

    similarity: np.ndarray
    modes: SimilarityModes
    probability: np.ndarray
    is_clean: np.ndarray

    @classmethod
    def above(
        cls, threshold: float, similarity: np.ndarray, modes: SimilarityModes, probability: np.ndarray
    ) -> Filtered:
        """Keep the pairs of a clean probability above the threshold.

        Raises:
            InputError: there is none.
        """
        is_clean = select(probability, threshold)
        if not is_clean.any():
            raise InputError(
                f"no pair is kept: the largest clean probability is {probability.max():.3g}; lower --p_threshold "
                f"{threshold:g}"
            )
        return cls(similarity, modes, probability, is_clean)


def filter_pairs(similarity: np.ndarray, config: ModesConfig, threshold: float, seed: int = 0) -> Filtered:
    """Fit the modes and keep the clean pairs.

    Args:
        similarity: (n,) cosines.
        config: flags of the modes.
        threshold: pairs of a larger clean probability are kept.
        seed: of the fit's random starts.

    Raises:
        InputError: fewer than 10 pairs, NaN, outside [-1, 1]; or no pair passes the threshold.
    """
    modes = fit_similarity_modes(
        similarity, seed=seed, num_starts=config.mode_starts, min_separation=config.min_separation
    )
    return Filtered.above(threshold, similarity, modes, clean_posterior(similarity, modes, config.mode_prior))


def filter_quality(is_clean: np.ndarray, values: np.ndarray, is_matched: np.ndarray) -> dict[str, Any]:
    """Return how well a filter did, by name, shares in [0, 1]; None where it is undefined.

    Args:
        is_clean: (n,) bool, the pairs that were kept.
        values: (n,) clean probability, or what it grows with.
        is_matched: (n,) bool, the truth.

    Returns:
        noise: share of mismatched pairs; residual_noise: the same among the kept; precision: 1 - residual_noise;
        recall: share of the matched pairs that were kept; auc: of the values.
    """
    hits, num_kept, num_matched = int((is_clean & is_matched).sum()), int(is_clean.sum()), int(is_matched.sum())
    has_both = 0 < num_matched < len(is_matched)
    return {
        "noise": 1 - num_matched / len(is_matched),
        "residual_noise": (num_kept - hits) / num_kept if num_kept else None,
        "precision": hits / num_kept if num_kept else None,
        "recall": hits / num_matched if num_matched else None,
        "auc": float(roc_auc_score(is_matched, values)) if has_both else None,
    }
