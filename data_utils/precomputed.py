"""A split of a precomputed data set: regions, token ids and which image belongs to which caption.

- `.txt`: position decides. Captions of an image are consecutive lines, equally many for each feature row.
- `.tsv`: the image ids decide. Lines of one id, wherever they are, are the captions of one image; image k is the k-th
  id that appears, and feature row k. Ids that are all different mean one caption an image.
Where a release stores a row for each caption, the equal rows of an image are told from their content.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data_utils.captions import CaptionFile, read_caption_file, read_tokens, unsegmented
from data_utils.loaders import Batch
from data_utils.regions import RegionFile, RegionStore
from runtime.distributed import Share
from runtime.errors import InputError
from vocab.vocabulary import Vocabulary

MAX_UNKNOWN_SHARE = 0.5
"""A vocabulary that knows fewer of a split's words than this belongs to another data set."""

MANY_UNKNOWN = 0.05
"""A share of unknown words that is pointed out: of the words of a data set's own vocabulary 1 or 2 % are unknown."""

COMPARED = 16
"""So many images of a split are compared before training: 5 MB of the usual features."""


HEAD_ROWS = 64
"""Repeats are looked for among so many rows."""


@dataclass(frozen=True)
class Counts:
    """How feature rows and captions belong together. Legend: I images, C captions.

    Attributes:
        image_of_caption: (C,) int64, the image of each line of the caption file.
        row_of_image: (I,) int64, the feature row of each image.
        is_row_a_caption: features are stored once for each caption, not once an image.
    """

    image_of_caption: np.ndarray
    row_of_image: np.ndarray
    is_row_a_caption: bool

    @property
    def images(self) -> int:
        """I."""
        return len(self.row_of_image)

    @property
    def image_of_row(self) -> np.ndarray:
        """(rows,) int64, the image of each feature row."""
        return self.image_of_caption if self.is_row_a_caption else np.arange(self.images)

    @property
    def each(self) -> str:
        """How many captions an image has, in words: `5`, or `1-3` where images differ."""
        counts = np.bincount(self.image_of_caption)
        fewest, most = int(counts.min()), int(counts.max())
        return str(most) if fewest == most else f"{fewest}-{most}"

    @property
    def is_by_position(self) -> bool:
        """Captions of an image are consecutive lines, equally many for each, as in a .txt."""
        return self.captions_per_image is not None and bool((np.diff(self.image_of_caption) >= 0).all())

    @property
    def captions_per_image(self) -> int | None:
        """How many captions an image has; None where images differ."""
        return int(self.each) if self.each.isdecimal() else None


def number_images(ids: list[str]) -> np.ndarray:
    """Return the image of each id, (C,) int64: images are numbered in the order in which their ids first appear."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in ids], dtype=np.int64)


def count(regions: RegionFile, captions: CaptionFile) -> Counts:
    """Tell how the rows of a split's features and its captions belong together.

    Raises:
        InputError: captions of a .txt are not a multiple of rows; or the ids of a .tsv are not as many as the images,
            name feature rows that differ, or are row numbers in another order.
    """
    num_rows, num_captions = len(regions), len(captions.texts)
    if captions.ids is not None:
        return _count_by_ids(regions, captions.path, captions.ids)
    if num_captions % num_rows:
        raise InputError(
            f"counts do not divide: {num_rows} feature rows in {regions.path} but {num_captions} captions in "
            f"{captions.path}; there must be a whole number of captions for each row (for other numbers save them as "
            ".tsv: image id TAB caption)"
        )
    repeats = repeated_rows(regions) if num_captions == num_rows else 1
    images, each = num_rows // repeats, num_captions // num_rows * repeats
    return Counts(np.repeat(np.arange(images), each), np.arange(0, num_rows, repeats), repeats > 1)


def _count_by_ids(regions: RegionFile, captions: Path, ids: list[str]) -> Counts:
    num_rows, image = len(regions), number_images(ids)
    names, first = np.unique(image, return_index=True)
    told = f"{num_rows} feature rows in {regions.path} but {len(names)} different image ids in {captions}"
    if len(names) == num_rows:
        if len(names) < len(ids) and _are_row_numbers([ids[k] for k in first]):
            raise InputError(
                f"the image ids in {captions} are the numbers of the {num_rows} rows in {regions.path}, but do not "
                f"first appear in that order (line 1 has {ids[0]!r}); row k is taken for the k-th id that appears: "
                "sort the lines by id, or take other names as ids"
            )
        return Counts(image, np.arange(num_rows), is_row_a_caption=False)
    if num_rows == len(ids):
        again = np.setdiff1d(np.arange(len(ids)), first)
        again = again[np.unique(np.linspace(0, len(again) - 1, HEAD_ROWS).astype(np.int64))]
        before = first[image[again]]
        differ = (regions.read(again) != regions.read(before)).any(axis=(1, 2))
        if differ.any():
            row, other = int(again[differ][0]), int(before[differ][0])
            raise InputError(
                f"{told}: rows {other} and {row} are both of image {ids[row]!r} and differ; there must be one row an "
                "id, or one row a line, equal for equal ids"
            )
        return Counts(image, first, is_row_a_caption=True)
    advice = "there must be one row an id, or one row a line"
    if len(names) == len(ids):
        advice = "they name captions, not images: give every line the id of its image, or, if the captions of an image "
        advice += "are consecutive lines and equally many, save the captions alone as .txt"
    raise InputError(f"{told} of {len(ids)} lines; {advice}")


def _are_row_numbers(ids: list[str]) -> bool:
    """Tell whether ids are the numbers 0 .. I-1 or 1 .. I, in another order than that."""
    numbers = ([str(k + first) for k in range(len(ids))] for first in (0, 1))
    return any(ids != in_order and set(ids) == set(in_order) for in_order in numbers)


def repeated_rows(regions: RegionFile) -> int:
    """Return how often each image's features are repeated on consecutive rows (1: stored once).

    Some releases store one row a caption. To be asked only where rows and captions are equally many; the run of equal
    rows at the start gives the number, which must then hold at the end as well.
    """
    head = regions.read(np.arange(min(len(regions), HEAD_ROWS)))
    run = 1
    while run < len(head) and np.array_equal(head[run], head[0]):
        run += 1
    if run == 1 or len(regions) % run:
        return 1
    tail = regions.read(np.arange(len(regions) - run, len(regions)))
    return run if all(np.array_equal(row, tail[0]) for row in tail) else 1


class PrecomputedSplit:
    """Pairs of one split: caption k with image `image_of_pair[k]`.

    Args:
        folder: the data set's folder.
        split: `train`, `dev`, `test`, `testall`, ...
        vocabulary: gives the token ids.
        max_images: use only so many first images.

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

    def __init__(self, folder: Path, split: str, vocabulary: Vocabulary, max_images: int | None = None) -> None:
        self.name = split
        self.regions = RegionStore(folder, split)
        captions = read_caption_file(folder, split)
        tokens = read_tokens(captions, vocabulary)
        self.counts = count(self.regions, captions)
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
            why = unsegmented(captions.texts) or (
                "it belongs to another data set; set --vocab_path, or make one with python -m vocab.build"
            )
            raise InputError(
                f"the vocabulary does not know {100 * self.unknown_share:.0f} % of the words of {captions.path}: {why}"
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
