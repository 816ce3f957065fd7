"""A split of a precomputed data set: regions, token ids and which image belongs to which caption."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from data_utils.batch import Batch
from data_utils.captions import captions_file, image_ids, read_captions, unsegmented
from data_utils.counts import count
from data_utils.regions import RegionStore
from data_utils.tokens import read_tokens
from runtime.distributed import Share
from runtime.errors import InputError
from vocab.vocabulary import Vocabulary

MAX_UNKNOWN_SHARE = 0.5
"""A vocabulary that knows fewer of a split's words than this belongs to another data set."""

MANY_UNKNOWN = 0.05
"""A share of unknown words that is pointed out: of the words of a data set's own vocabulary 1 or 2 % are unknown."""

COMPARED = 16
"""So many images of a split are compared before training: 5 MB of the usual features."""


class PrecomputedSplit:
    """Pairs of one split: caption k with image `image_of_pair[k]`.

    Args:
        folder: the data set's folder.
        split: `train`, `dev`, `test`, `testall`, ...
        vocabulary: gives the token ids.
        max_images: use only so many first images.
        token_cache: folder that keeps tokenised captions; None is the user's cache, `off` none.

    Attributes:
        image_of_caption: (captions,) int64, the image each caption was written for, as the files say: in any order, any
            number an image.
        image_of_pair: the same, or what a noise index made of it (`set_images`).
        line_of_caption: (captions,) int64, the line of the caption file, from 0.
        counts: images and captions of the whole files, whatever `max_images`.
        lengths: (captions,) int64, ids of each caption, `<start>` and `<end>` included.
        unknown_share: share of the captions' words that the vocabulary does not know.

    Raises:
        InputError: files missing or broken, counts that do not fit together, or a vocabulary of another data set.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        vocabulary: Vocabulary,
        max_images: int | None = None,
        *,
        token_cache: str | None = None,
    ) -> None:
        self.name = split
        self.regions = RegionStore(folder, split)
        path = captions_file(folder, split)
        tokens = read_tokens(path, vocabulary, token_cache)
        self.counts = count(self.regions, len(tokens), path, image_ids(path))
        self.num_images = min(self.counts.images, max_images) if max_images else self.counts.images
        is_used = self.counts.image_of_caption < self.num_images
        tokens = tokens if is_used.all() else tokens.only(is_used)
        self._tokens, self.lengths = tokens.ids, tokens.lengths
        self._offsets = np.cumsum(self.lengths) - self.lengths
        self.line_of_caption = np.flatnonzero(is_used)
        self.image_of_caption = self.counts.image_of_caption[is_used]
        self.image_of_pair = self.image_of_caption

        words = len(self._tokens) - 2 * len(tokens)
        self.unknown_share = float((self._tokens == vocabulary.unknown_id).sum()) / max(words, 1)
        if self.unknown_share > MAX_UNKNOWN_SHARE:
            why = unsegmented(read_captions(folder, split)) or (
                "it belongs to another data set; set --vocab_path, or make one with python -m vocab.build"
            )
            raise InputError(
                f"the vocabulary does not know {100 * self.unknown_share:.0f} % of the words of {path}: {why}"
            )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def region_shape(self) -> tuple[int, int]:
        """(R, D)."""
        return self.regions.shape[1], self.regions.shape[2]

    def check_features(self) -> None:
        """Look for NaN, where that is quick, and for images that are all the same, among some of them.

        Raises:
            InputError: a feature is NaN or infinite, or the images cannot be told apart.
        """
        self.regions.check_finite()
        some = self.read_images(np.unique(np.linspace(0, self.num_images - 1, COMPARED).astype(np.int64)))
        if len(some) > 1 and bool((some == some[0]).all()):
            raise InputError(
                f"{self.regions.path}: {len(some)} images, evenly spread, have the same features; extract them again"
            )

    def set_images(self, image_of_pair: np.ndarray) -> None:
        """Give every caption the image that a noise index says: (captions,) int64."""
        assert image_of_pair.shape == self.image_of_caption.shape
        self.image_of_pair = image_of_pair

    def with_pairs(self, caption: np.ndarray, image: np.ndarray) -> PrecomputedSplit:
        """Return the same images and captions in other pairs: caption[k] with image[k], (pairs,) each.

        What was said of captions is then said of pairs; a caption may be in several.
        """
        assert caption.shape == image.shape
        other = copy.copy(self)
        other.lengths, other._offsets = self.lengths[caption], self._offsets[caption]
        other.image_of_caption, other.image_of_pair = self.image_of_caption[caption], image
        other.line_of_caption = self.line_of_caption[caption]
        return other

    @property
    def is_matched(self) -> np.ndarray:
        """(captions,) bool: the pair is as the files have it, not moved by a noise index."""
        return self.image_of_pair == self.image_of_caption

    def read_images(self, images: np.ndarray) -> torch.Tensor:
        """Return the regions of `images` (n,) as (n, R, D) float32."""
        return torch.from_numpy(self.regions.read(self.counts.row_of_image[images]))

    def tokens(self, captions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids (n, W), zero-padded, and lengths (n,) of `captions` (n,)."""
        lengths = self.lengths[captions]
        places = np.arange(lengths.max(initial=0))
        is_word = places < lengths[:, None]
        ids = np.where(is_word, self._tokens[np.where(is_word, self._offsets[captions][:, None] + places, 0)], 0)
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(lengths.astype(np.int64))

    def __getitem__(self, index: torch.Tensor) -> Batch:
        """Return the pairs `index` (B,) as a batch."""
        return self.batch(index)

    def batch(self, index: torch.Tensor, share: Share | None = None) -> Batch:
        """Return the pairs `index` (B,) as a batch; of a shared one the regions of this process's rows alone."""
        numbers = index.numpy()
        images = self.image_of_pair[numbers]
        tokens, lengths = self.tokens(numbers)
        return Batch(
            regions=self.read_images(images if share is None else images[share.rows]),
            tokens=tokens,
            lengths=lengths,
            index=index,
            image_id=torch.from_numpy(images.astype(np.int64)),
            share=share,
        )
