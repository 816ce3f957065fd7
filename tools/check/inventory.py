"""What the files of a split hold, read as far as they can be: the faults of one file do not hide those of the next."""

from __future__ import annotations

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
        _look_at_ids(folder / f"{split}_ids.txt", len(captions.texts), len(features), findings)
    for stem, suffixes in ((f"{split}_ims", FEATURE_SUFFIXES), (f"{split}_caps", CAPTION_SUFFIXES)):
        there = [stem + suffix for suffix in suffixes if (folder / (stem + suffix)).is_file()]
        if len(there) > 1:
            findings.remarks.append(f"{there[0]} and {there[1]} are both there; {there[0]} is read")
    return Inventory(split, features, None if captions is None else captions.texts, path, counts, tokens)


def _look_at_ids(path: Path, num_captions: int, num_rows: int, findings: Findings) -> None:
    """Compare the number of ids, if there are any, with the captions and the feature rows."""
    if path.is_file():
        ids = sum(1 for line in path.read_bytes().split(b"\n") if line.strip())
        if ids not in (num_captions, num_rows):
            findings.remarks.append(
                f"{path.name} holds {ids} ids for {num_captions} captions and {num_rows} feature rows; it is not read, "
                "but belongs to other files"
            )


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
