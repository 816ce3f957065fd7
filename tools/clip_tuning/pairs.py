"""Picture-caption pairs from a CSV, a JSON or the suite's own data folders, and the noise put into them.

- CSV: columns `image` and `caption`, a pair a row; other columns are left alone.
- JSON, objects: [{"image": "a.jpg", "caption": "..."}, ...]; a caption may be a list of captions.
- JSON, DSDMR's schema: {"image": [...], "caption": [...]}, parallel lists; captions are a list of lists, or a flat list
  with the same number of captions (5 or 1) for every image.
- a data folder with `thumbnails.h5`: `{split}_caps.txt` as for run.py.
Images are numbered in the order of their first pair, and captions are sorted by image, so that index files of
`--noise_file` mean what they mean to run.py. Legend: I images, C captions.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.captions import read_captions
from data_utils.catalog import EMBEDDED, DataConfig, locate, protocol
from data_utils.extraction.text_files import read_json, read_text
from data_utils.noise import NoiseConfig, NoiseReport, inject
from data_utils.pictures import THUMBNAILS, Pictures, picture_files, thumbnails
from runtime.errors import InputError
from runtime.flags import flag

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class PairsConfig:
    """Flags that name pictures and captions."""

    data_name: str = flag(EMBEDDED, "data folder with thumbnails.h5, read for splits without a --*_pairs file")
    data_path: str | None = flag(None, "folder that holds the data set's folder (default: data)", metavar="DIR")
    train_pairs: str | None = flag(None, "pairs to train on: .csv (image, caption) or .json", metavar="FILE")
    dev_pairs: str | None = flag(None, "pairs that choose the epoch: .csv or .json", metavar="FILE")
    test_pairs: str | None = flag(None, "pairs to test on: .csv or .json", metavar="FILE")
    picture_path: str | None = flag(
        None, "folder that picture paths start from (default: the folder of their file)", metavar="DIR"
    )

    def __post_init__(self) -> None:
        DataConfig(data_name=self.data_name)
        given = [name for name in SPLITS if self.file_of(name) is not None]
        if given and "train" in given and len(given) < len(SPLITS):
            lacking = ", ".join(f"--{name}_pairs" for name in SPLITS if name not in given)
            raise InputError(f"{lacking} missing: with --train_pairs, dev and test are files of pairs too")

    def file_of(self, split: str) -> str | None:
        """Return the file of pairs of a split, if one was given."""
        return getattr(self, f"{split}_pairs", None)


@dataclass(frozen=True)
class Pairs:
    """Pictures and their captions.

    Attributes:
        name: what messages call it.
        pictures: I of them.
        captions: C.
        image_of_caption: (C,) int64, the picture each caption was written for, never decreasing.
    """

    name: str
    pictures: Pictures
    captions: list[str]
    image_of_caption: np.ndarray

    @property
    def num_images(self) -> int:
        return len(self.pictures)


def _from_csv(path: Path) -> list[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    lacking = {"image", "caption"} - set(reader.fieldnames or ())
    if lacking:
        raise InputError(
            f"{path} has no column {' and no column '.join(sorted(lacking))}; its first line names columns"
        )
    rows = []
    try:
        for row in reader:
            if not row["image"] or not (row["caption"] or "").strip():
                raise InputError(
                    f"{path} line {reader.line_num}: image or caption is empty; fill it in or drop the line"
                )
            rows.append((row["image"], row["caption"].strip()))
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is no CSV: {error}") from None
    return rows


def _captions_of(entry: Any, where: str) -> list[str]:
    """Return one image's captions, given as a string or a list of strings."""
    captions = [entry] if isinstance(entry, str) else entry
    if not isinstance(captions, list) or not captions:
        raise InputError(f"{where}: caption must be a string or a list of strings, not {type(entry).__name__}")
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise InputError(f"{where} holds an empty caption, or one that is no string")
    return [caption.strip() for caption in captions]


def _from_lists(path: Path, images: Any, captions: Any) -> list[tuple[str, str]]:
    if not isinstance(images, list) or not isinstance(captions, list):
        raise InputError(f'{path}: "image" and "caption" must be lists')
    if captions and isinstance(captions[0], str) and images and len(captions) % len(images) == 0:
        each = len(captions) // len(images)
        captions = [captions[start : start + each] for start in range(0, len(captions), each)]
    if len(images) != len(captions):
        raise InputError(
            f'{path}: "image" has {len(images)} entries and "caption" has {len(captions)}; give as many lists of '
            "captions as images, or a flat list with equally many captions for every image"
        )
    rows = []
    for number, (image, own) in enumerate(zip(images, captions, strict=True)):
        if not isinstance(image, str) or not image:
            raise InputError(f'{path}: entry {number} of "image" is no path')
        rows += [(image, caption) for caption in _captions_of(own, f'{path}: entry {number} of "caption"')]
    return rows


def _from_json(path: Path) -> list[tuple[str, str]]:
    content = read_json(path)
    if isinstance(content, list) and all(isinstance(entry, dict) for entry in content):
        for number, entry in enumerate(content):
            if not {"image", "caption"} <= set(entry):
                raise InputError(f'{path}: entry {number} lacks "image" or "caption"; it has: {", ".join(entry)}')
        captions = [_captions_of(entry["caption"], f"{path}: entry {number}") for number, entry in enumerate(content)]
        return _from_lists(path, [entry["image"] for entry in content], captions)
    if not isinstance(content, dict) or not {"image", "caption"} <= set(content):
        raise InputError(f'{path} must be a list of objects with "image" and "caption", or one of two such lists')
    return _from_lists(path, content["image"], content["caption"])


READERS = {".csv": _from_csv, ".json": _from_json}


def read_pairs(path: Path, picture_path: Path | None = None) -> Pairs:
    """Read a file of pairs.

    Args:
        path: .csv or .json.
        picture_path: folder that relative picture paths start from; None is the file's own.

    Raises:
        InputError: not a file of pairs, no pair in it, or pictures that are missing (path and count).
    """
    if path.suffix.lower() not in READERS:
        raise InputError(f"{path} is neither .csv nor .json; give a file of pairs")
    rows = READERS[path.suffix.lower()](path)
    if not rows:
        raise InputError(f"{path} holds no pair")
    numbers: dict[str, int] = {}
    image = np.array([numbers.setdefault(name, len(numbers)) for name, _ in rows], dtype=np.int64)
    order = np.argsort(image, kind="stable")
    pictures = picture_files([(picture_path or path.parent) / name for name in numbers])
    return Pairs(str(path), pictures, [rows[k][1] for k in order], image[order])


def open_pairs(config: PairsConfig, split: str) -> Pairs:
    """Open a split: its file of pairs if one was given, else the data folder.

    Raises:
        InputError: anything missing, broken or not fitting together.
    """
    file = config.file_of(split)
    if file is not None:
        return read_pairs(Path(file), Path(config.picture_path) if config.picture_path else None)
    folder = locate(DataConfig(data_name=config.data_name, data_path=config.data_path))
    pictures = thumbnails(folder / THUMBNAILS, split)
    captions = read_captions(folder, split)
    each, rest = divmod(len(captions), len(pictures))
    if rest or not each:
        raise InputError(f"{folder}: {len(captions)} captions cannot be shared evenly by {len(pictures)} pictures")
    return Pairs(f"{config.data_name} {split}", pictures, captions, np.repeat(np.arange(len(pictures)), each))


def inject_noise(pairs: Pairs, noise: NoiseConfig, data_name: str) -> tuple[np.ndarray, NoiseReport]:
    """Return the picture that each caption is trained with (C,), and what was measured.

    Raises:
        InputError: noise is asked for where images have different numbers of captions, or what `inject` raises.
    """
    counts = np.bincount(pairs.image_of_caption, minlength=pairs.num_images)
    if counts.min() == counts.max():
        has_real_noise = protocol(data_name).has_real_noise
        return inject(noise, pairs.num_images, int(counts[0]), has_real_noise=has_real_noise)
    if noise.noise_ratio or noise.noise_file:
        raise InputError(
            f"--noise_ratio and --noise_file need equally many captions for every image; {pairs.name} has from "
            f"{counts.min()} to {counts.max()}"
        )
    return pairs.image_of_caption, NoiseReport(protocol="none", asked_ratio=0.0, measured_ratio=0.0)
