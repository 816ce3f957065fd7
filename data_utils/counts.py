"""Which captions and which feature row each image of a split has.

- `.txt`: position decides. Captions of an image are consecutive lines, equally many for each feature row.
- `.tsv`: the image ids decide. Lines of one id, wherever they are, are the captions of one image; image k is the k-th
  id that appears, and feature row k. Ids that are all different mean one caption an image.
Where a release stores a row for each caption, the equal rows of an image are told from their content.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_utils.regions import RegionFile
from runtime.errors import InputError

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


def count(regions: RegionFile, num_captions: int, captions: Path, ids: list[str] | None = None) -> Counts:
    """Tell how rows and captions belong together.

    Args:
        regions: the split's features.
        num_captions: how many captions the split has.
        captions: where they are, for the message.
        ids: the image id of each, None where position decides.

    Raises:
        InputError: captions of a .txt are not a multiple of rows; or the ids of a .tsv are not as many as the images,
            name feature rows that differ, or are row numbers in another order.
    """
    num_rows = len(regions)
    if ids is not None:
        return _count_by_ids(regions, captions, ids)
    if num_captions % num_rows:
        raise InputError(
            f"counts do not divide: {num_rows} feature rows in {regions.path} but {num_captions} captions in "
            f"{captions}; there must be a whole number of captions for each row (for other numbers save them as "
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
