"""Which captions fit which images, from a file: ground truths of more than one owner a caption (ECCV Caption, CxC).

- `.tsv` and `.csv`: columns `image` (its number in the split, from 0) or `image_id` (looked up in `{split}_ids.txt`, or
  else in `{split}_caps.tsv`), and `caption` (its line in the split, from 0); others are passed over. Without a header,
  two columns of numbers;
- `.json`: a list of such pairs or of such records; or {"i2t": {image: [captions]}, "t2i": {caption: [images]}} with
  numbers, where the two directions have queries of their own.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.captions import read_caption_file
from runtime.errors import InputError
from runtime.files import parse_json


@dataclass(frozen=True)
class RelevantPairs:
    """Pairs of each direction, (P,) int64 each, as in the file: `i2t` images and captions, `t2i` likewise."""

    i2t: tuple[np.ndarray, np.ndarray]
    t2i: tuple[np.ndarray, np.ndarray]


def read_image_ids(folder: Path, split: str, image_of_caption: np.ndarray) -> dict[str, int]:
    """Return the number of each image by its id in `{split}_ids.txt`, or where there is none in `{split}_caps.tsv`.

    Args:
        folder: the data set's.
        split: its name.
        image_of_caption: (captions,) the image of each line of the split's caption file.

    Raises:
        InputError: neither file, not as many lines as images or captions, or an id of two images.
    """
    path = folder / f"{split}_ids.txt"
    try:
        found = None if path.exists() else read_caption_file(folder, split).ids
        ids = path.read_text(encoding="utf-8-sig").split() if found is None else found
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"image ids need {path}, one line an image or a caption; it cannot be read: {error}") from None
    images, first = np.unique(image_of_caption, return_index=True)
    if len(ids) not in (len(images), len(image_of_caption)):
        raise InputError(
            f"{path} holds {len(ids)} ids for {len(images)} images with {len(image_of_caption)} captions; it must hold "
            "one line an image or a caption"
        )
    numbers: dict[str, int] = {}
    for k, name in enumerate(ids if len(ids) == len(images) else [ids[line] for line in first.tolist()]):
        if numbers.setdefault(name, k) != k:
            raise InputError(f"{path}: the id {name!r} names two images, {numbers[name]} and {k}")
    return numbers


def _json_records(content: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a place's name and its pair."""
    for number, record in enumerate(content, start=1):
        if isinstance(record, dict):
            yield f"entry {number}", record
        elif isinstance(record, list) and len(record) == 2:
            yield f"entry {number}", dict(zip(("image", "caption"), record, strict=True))
        else:
            raise ValueError(f"entry {number} is no pair")


def _json_direction(content: Mapping[str, Any], query: str, item: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, values in content.items():
        if not isinstance(values, list):
            raise ValueError(f"{query} {key} has no list of {item}s")
        yield from ((f"{query} {key}", {query: key, item: value}) for value in values)


def _table_records(lines: list[str], delimiter: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    rows = list(csv.reader(lines, delimiter=delimiter))
    header = ["image", "caption"]
    is_headed = bool(rows) and not all(cell.strip().isdecimal() for cell in rows[0][:2])
    if is_headed:
        header = [cell.strip().lower() for cell in rows[0]]
    for number, row in enumerate(rows[is_headed:], start=1 + is_headed):
        if row:
            if len(row) < len(header):
                raise ValueError(f"line {number} has {len(row)} columns, not {len(header)}")
            yield f"line {number}", dict(zip(header, row, strict=False))


def _number(value: Any, limit: int, kind: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or int(text) >= limit:
        raise ValueError(f"{kind} {value!r} is not one of 0 .. {limit - 1}")
    return int(text)


def read_relevance(
    path: Path, num_images: int, num_captions: int, image_ids: Callable[[], Mapping[str, int]]
) -> RelevantPairs:
    """Read relevant pairs.

    Args:
        path: a .tsv, .csv or .json file.
        num_images: I.
        num_captions: C.
        image_ids: gives the number of each image by its id; asked only if the file names images by id.

    Raises:
        InputError: no such file, another layout, an image or caption that the split does not have, or no pair.
    """
    known: Mapping[str, int] | None = None

    def pairs(records: Iterator[tuple[str, Mapping[str, Any]]]) -> tuple[np.ndarray, np.ndarray]:
        nonlocal known
        found = []
        for where, record in records:
            try:
                if "caption" not in record or not ({"image", "image_id"} & record.keys()):
                    raise ValueError("a pair needs the columns image (or image_id) and caption")
                caption = _number(record["caption"], num_captions, "caption")
                if "image_id" in record:
                    known = image_ids() if known is None else known
                    name = str(record["image_id"]).strip()
                    if name not in known:
                        raise ValueError(f"image_id {name!r} is not in the split")
                    found.append((known[name], caption))
                else:
                    found.append((_number(record["image"], num_images, "image"), caption))
            except InputError:
                raise
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        if not found:
            raise ValueError("it holds no pair")
        both = np.array(found, dtype=np.int64)
        return both[:, 0], both[:, 1]

    try:
        if path.suffix == ".json":
            content = parse_json(path.read_bytes())
            if isinstance(content, dict):
                if set(content) != {"i2t", "t2i"}:
                    raise ValueError('an object must have the two names "i2t" and "t2i"')
                return RelevantPairs(
                    pairs(_json_direction(content["i2t"], "image", "caption")),
                    pairs(_json_direction(content["t2i"], "caption", "image")),
                )
            if not isinstance(content, list):
                raise ValueError("it is neither a list nor an object")
            same = pairs(_json_records(content))
        elif path.suffix in (".tsv", ".csv"):
            text = path.read_text(encoding="utf-8-sig")
            same = pairs(_table_records(text.splitlines(), "\t" if path.suffix == ".tsv" else ","))
        else:
            raise ValueError("its name must end in .tsv, .csv or .json")
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"--relevance {path} cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError, csv.Error) as error:
        raise InputError(f"--relevance {path}: {error}") from None
    return RelevantPairs(same, same)
