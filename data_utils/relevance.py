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
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.captions import read_caption_file
from runtime.errors import InputError
from runtime.files import parse_json


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


Records = Iterator[tuple[str, Mapping[str, Any]]]
"""The name of each pair's place in the file, and the pair by names of columns."""


def _json_records(content: list[Any]) -> Records:
    for number, record in enumerate(content, start=1):
        if isinstance(record, list) and len(record) == 2:
            record = {"image": record[0], "caption": record[1]}
        if not isinstance(record, dict):
            raise ValueError(f"entry {number} is no pair")
        yield f"entry {number}", record


def _json_direction(content: Mapping[str, Any], query: str, item: str) -> Records:
    for key, values in content.items():
        if not isinstance(values, list):
            raise ValueError(f"{query} {key} has no list of {item}s")
        yield from ((f"{query} {key}", {query: key, item: value}) for value in values)


def _table_records(text: str, delimiter: str) -> Records:
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
    is_headed = bool(rows) and not all(cell.strip().isdecimal() for cell in rows[0][:2])
    header = [cell.strip().lower() for cell in rows[0]] if is_headed else ["image", "caption"]
    for number, row in enumerate(rows[is_headed:], start=1 + is_headed):
        if row and len(row) < len(header):
            raise ValueError(f"line {number} has {len(row)} columns, not {len(header)}")
        if row:
            yield f"line {number}", dict(zip(header, row, strict=False))


def _number(value: Any, limit: int, kind: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or int(text) >= limit:
        raise ValueError(f"{kind} {value!r} is not one of 0 .. {limit - 1}")
    return int(text)


def read_relevance(
    path: Path, num_images: int, num_captions: int, image_ids: Callable[[], Mapping[str, int]]
) -> dict[str, np.ndarray]:
    """Read relevant pairs.

    Args:
        path: a .tsv, .csv or .json file.
        num_images: I.
        num_captions: C.
        image_ids: gives the number of each image by its id; asked only if the file names images by id.

    Returns:
        (P, 2) int64: `i2t` pairs of image and caption, `t2i` pairs of caption and image.

    Raises:
        InputError: no such file, another layout, an image or caption that the split does not have, or no pair.
    """

    def pair(record: Mapping[str, Any]) -> tuple[int, int]:
        if "caption" not in record or not ({"image", "image_id"} & record.keys()):
            raise ValueError("a pair needs the columns image (or image_id) and caption")
        caption = _number(record["caption"], num_captions, "caption")
        if "image_id" not in record:
            return _number(record["image"], num_images, "image"), caption
        name = str(record["image_id"]).strip()
        if name not in image_ids():
            raise ValueError(f"image_id {name!r} is not in the split")
        return image_ids()[name], caption

    def pairs(records: Records) -> np.ndarray:
        found = []
        for where, record in records:
            try:
                found.append(pair(record))
            except InputError:
                raise
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        if not found:
            raise ValueError("it holds no pair")
        return np.array(found, dtype=np.int64)

    try:
        if path.suffix == ".json":
            content = parse_json(path.read_bytes())
            if isinstance(content, dict):
                if set(content) != {"i2t", "t2i"}:
                    raise ValueError('an object must have the two names "i2t" and "t2i"')
                i2t = pairs(_json_direction(content["i2t"], "image", "caption"))
                return {"i2t": i2t, "t2i": pairs(_json_direction(content["t2i"], "caption", "image"))[:, ::-1]}
            if not isinstance(content, list):
                raise ValueError("it is neither a list nor an object")
            same = pairs(_json_records(content))
        elif path.suffix in (".tsv", ".csv"):
            text = path.read_text(encoding="utf-8-sig")
            same = pairs(_table_records(text, "\t" if path.suffix == ".tsv" else ","))
        else:
            raise ValueError("its name must end in .tsv, .csv or .json")
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"--relevance {path} cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError, csv.Error) as error:
        raise InputError(f"--relevance {path}: {error}") from None
    return {"i2t": same, "t2i": same[:, ::-1]}
