"""How many images a split has, and how many captions and feature rows each: told from the two counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_utils.regions import RegionFile
from runtime.errors import InputError

HEAD_ROWS = 64
"""Repeats are looked for among so many first rows."""


@dataclass(frozen=True)
class Counts:
    """What the numbers of feature rows and captions mean.

    Attributes:
        images: number of images.
        captions_per_image: captions of each image, on consecutive lines.
        rows_per_image: equal feature rows of each image, one after another: 1, or one for each of its captions.
    """

    images: int
    captions_per_image: int
    rows_per_image: int


def count(regions: RegionFile, num_captions: int, captions: Path) -> Counts:
    """Tell how rows and captions belong together.

    Args:
        regions: the split's features.
        num_captions: how many captions the split has.
        captions: where they are, for the message.

    Raises:
        InputError: captions are not a multiple of rows.
    """
    num_rows = len(regions)
    if num_captions % num_rows:
        raise InputError(
            f"counts do not divide: {num_rows} feature rows in {regions.path} but {num_captions} captions in "
            f"{captions}; there must be a whole number of captions for each row"
        )
    repeats = repeated_rows(regions) if num_captions == num_rows else 1
    return Counts(num_rows // repeats, num_captions // num_rows * repeats, repeats)


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
