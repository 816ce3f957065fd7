"""What the files of a split hold, read as far as they can be: the faults of one file do not hide those of the next.

And what splits share that they should not: feature rows and caption lines, and rows that hold no features. Rows are
read a block at a time and remembered by a hash of their float32 values. Of a large file a sample is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_utils.captions import CaptionFile, Tokens, captions_file, read_caption_file, read_tokens
from data_utils.precomputed import Counts, count
from data_utils.regions import RegionFile, regions_file
from runtime.errors import InputError
from vocab.vocabulary import Vocabulary

FEATURE_SUFFIXES = (".npy", ".h5")
CAPTION_SUFFIXES = (".txt", ".tsv")
"""Suffixes of a split's files, the one that is read first in front."""


@dataclass
class Findings:
    """What was found.

    Attributes:
        faults: why the data set cannot be used, each with what to do.
        remarks: what to know.
    """

    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Inventory:
    """A split.

    Attributes:
        name: `train`, `dev`, ...
        features: its features; None where there are none, or they cannot be read.
        captions: its captions in file order; None likewise.
        captions_path: where they are.
        counts: the captions and the row of each image; None where features or captions are missing or do not fit.
        tokens: the captions as ids, None without a vocabulary.
    """

    name: str
    features: RegionFile | None = None
    captions: list[str] | None = None
    captions_path: Path | None = None
    counts: Counts | None = None
    tokens: Tokens | None = None

    @property
    def rows(self) -> int | None:
        """Number of feature rows."""
        return None if self.features is None else len(self.features)

    @property
    def is_missing(self) -> bool:
        """There is nothing that can be read."""
        return self.features is None and self.captions is None


def take_inventory(folder: Path, split: str, findings: Findings, vocabulary: Vocabulary | None) -> Inventory:
    """Read what there is of a split; faults and remarks on its files go to `findings`."""
    features: RegionFile | None = None
    captions: CaptionFile | None = None
    path: Path | None = None
    counts: Counts | None = None
    tokens: Tokens | None = None
    try:
        features = RegionFile(regions_file(folder, split))
    except InputError as error:
        findings.faults.append(str(error))
    try:
        path = captions_file(folder, split)
        captions = read_caption_file(folder, split)
        tokens = None if vocabulary is None else read_tokens(captions, vocabulary)
    except InputError as error:
        findings.faults.append(str(error))
    if captions is not None and captions.has_addresses:
        findings.remarks.append(f"{captions.path.name}: the third field of its lines, an address, is ignored")
    if features is not None and captions is not None:
        try:
            counts = count(features, captions)
        except InputError as error:
            findings.faults.append(str(error))
    for stem, suffixes in ((f"{split}_ims", FEATURE_SUFFIXES), (f"{split}_caps", CAPTION_SUFFIXES)):
        there = [stem + suffix for suffix in suffixes if (folder / (stem + suffix)).is_file()]
        if len(there) > 1:
            findings.remarks.append(f"{there[0]} and {there[1]} are both there; {there[0]} is read")
    return Inventory(split, features, None if captions is None else captions.texts, path, counts, tokens)


def word_lengths(inventory: Inventory) -> np.ndarray | None:
    """Return the number of tokens of each caption; without a vocabulary, of its words between spaces."""
    if inventory.tokens is not None:
        return inventory.tokens.lengths - 2  # <start> and <end>
    if inventory.captions is not None:
        return np.array([len(caption.split()) for caption in inventory.captions])
    return None


def unknown_share(inventory: Inventory, vocabulary: Vocabulary | None) -> float | None:
    """Return the share of the words that the vocabulary does not know, None where there is none."""
    if vocabulary is None or inventory.tokens is None:
        return None
    words = len(inventory.tokens.ids) - 2 * len(inventory.tokens)
    return float((inventory.tokens.ids == vocabulary.unknown_id).sum()) / max(words, 1)


WHOLE_BYTES = 2 * 2**30
"""A file of up to so many bytes (in float32) is read whole."""

SAMPLE_ROWS = 2000
"""So many rows, evenly spread, are read of a larger one."""

BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class RowScan:
    """What was read of a split's features.

    Attributes:
        num_rows: rows of the file.
        num_read: how many of them were read.
        not_finite: numbers of the rows with NaN or infinity.
        zero: numbers of the rows that are all zero.
        hashes: hash -> the first row of this content; rows that are all zero are left out.
        equal: rows of different images with one content, the later one of each and the first one.
    """

    num_rows: int
    num_read: int
    not_finite: list[int]
    zero: list[int]
    hashes: dict[bytes, int]
    equal: list[tuple[int, int]]

    @property
    def equal_share(self) -> float:
        """Share of the rows that equal an earlier one of another image; estimated where a sample was read."""
        return min(1.0, len(self.equal) / self.num_read * self.num_rows / self.num_read)

    @property
    def is_whole(self) -> bool:
        """Every row was read."""
        return self.num_read == self.num_rows


def rows_to_read(features: RegionFile, all_rows: bool) -> np.ndarray:
    """Return the rows that are looked at, in order."""
    num_rows = len(features)
    if all_rows or num_rows <= SAMPLE_ROWS or 4 * int(np.prod(features.shape)) <= WHOLE_BYTES:
        return np.arange(num_rows)
    return np.unique(np.linspace(0, num_rows - 1, SAMPLE_ROWS).astype(np.int64))


def scan_rows(
    features: RegionFile, rows: np.ndarray, advance: Callable[[int], None], image_of_row: np.ndarray
) -> RowScan:
    """Read rows and note what is wrong with them.

    Args:
        rows: (n,) which ones, in order.
        advance: told of every block how many rows it has.
        image_of_row: (rows of the file,) whose image each row is; rows of one image are equal as published.

    Raises:
        InputError: the file is damaged.
    """
    block = max(1, BLOCK_BYTES // (4 * features.shape[1] * features.shape[2]))
    block = max(features.block_rows, block - block % features.block_rows) if features.block_rows <= 4 * block else block
    not_finite: list[int] = []
    zero: list[int] = []
    hashes: dict[bytes, int] = {}
    equal: list[tuple[int, int]] = []
    for start in range(0, len(rows), block):
        numbers = rows[start : start + block]
        for number, row in zip(numbers.tolist(), features.read_unchecked(numbers), strict=True):
            if not row.any():
                zero.append(number)
                continue
            first = hashes.setdefault(hashlib.blake2b(row.data, digest_size=16).digest(), number)
            if image_of_row[first] != image_of_row[number]:
                equal.append((number, first))
            if not np.isfinite(row).all():
                not_finite.append(number)
        advance(len(numbers))
    return RowScan(len(features), len(rows), not_finite, zero, hashes, equal)


@dataclass(frozen=True)
class Shared:
    """What two splits share.

    Attributes:
        first, second: their names, the larger one in front.
        rows: number of different feature rows found in both; None where one could not be read.
        row_share: share of the second split's different rows that the first has; estimated where a sample was read.
        row_pair: a row of the first and the equal one of the second.
        captions: number of the second split's caption lines that the first has too; None likewise.
        caption_share: the same as a share.
        are_captions_equal: both have the very same captions in the very same order.
    """

    first: str
    second: str
    rows: int | None
    row_share: float
    row_pair: tuple[int, int] | None
    captions: int | None
    caption_share: float
    are_captions_equal: bool


def shared_between(
    names: tuple[str, str],
    scans: tuple[RowScan | None, RowScan | None],
    captions: tuple[list[str] | None, list[str] | None],
) -> Shared:
    """Compare two splits, the larger one in front."""
    rows, row_share, row_pair = None, 0.0, None
    first, second = scans
    if first is not None and second is not None:
        both = first.hashes.keys() & second.hashes.keys()
        rows = len(both)
        unread = (first.num_rows / first.num_read) * (second.num_rows / second.num_read)
        row_share = min(1.0, rows * unread / max(1, round(len(second.hashes) * second.num_rows / second.num_read)))
        if both:
            key = min(both, key=second.hashes.__getitem__)
            row_pair = (first.hashes[key], second.hashes[key])
    lines: int | None = None
    one, other = captions
    if one is not None and other is not None:
        known = set(one)
        lines = sum(caption in known for caption in other)
    share = lines / len(other) if lines is not None and other else 0.0
    return Shared(*names, rows, row_share, row_pair, lines, share, one is not None and one == other)
