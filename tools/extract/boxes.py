"""Boxes of pictures from a file, in pixels from the top left corner: x1 < x2 to the right, y1 < y2 down.

JSON: {picture: [[x1, y1, x2, y2], ...]}, or [{"image": picture, "x1": .., "y1": .., "x2": .., "y2": ..}, ...]. CSV and
TSV: picture, x1, y1, x2, y2, in any order below a line that names the columns; further columns are left aside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError
from tools.extract.listing import PICTURE_COLUMNS, first_of
from tools.extract.text_files import read_json, read_rows

CORNERS = ("x1", "y1", "x2", "y2")
SLACK = 0.01
"""So many pixels beyond the edge are rounding."""

Place = tuple[str, str, Any]
"""A picture, where its box is told, and its four corners as they are told."""


def read_boxes(path: Path) -> dict[str, np.ndarray]:
    """Return the boxes (n, 4) float64 of every picture, in the order of the file.

    Raises:
        InputError: not such a file, or a box that is empty or not four numbers (line or picture).
    """
    suffix = path.suffix.lower()
    if suffix not in (".json", ".csv", ".tsv"):
        raise InputError(f"--boxes {path} has the suffix {path.suffix!r}; known: .json, .csv, .tsv")
    grouped: dict[str, list[tuple[float, ...]]] = {}
    for picture, where, corners in _from_json(path) if suffix == ".json" else _from_table(path):
        if not isinstance(picture, str):
            raise InputError(f"{where}: {picture!r} is no picture's name")
        try:
            x1, y1, x2, y2 = map(float, corners)
        except (TypeError, ValueError):
            raise InputError(f"{where}: {corners!r} is no box; it is four numbers: x1, y1, x2, y2") from None
        if not (math.isfinite(x1 + y1 + x2 + y2) and x1 < x2 and y1 < y2):
            raise InputError(f"{where}: box {(x1, y1, x2, y2)} of {picture} is empty; x1 < x2 and y1 < y2 are needed")
        grouped.setdefault(picture, []).append((x1, y1, x2, y2))
    if not grouped:
        raise InputError(f"--boxes {path} holds no box")
    return {picture: np.array(boxes) for picture, boxes in grouped.items()}


def chosen_boxes(
    boxes: dict[str, np.ndarray], pictures: Iterable[str], path: Path, num_boxes: int | None
) -> dict[str, np.ndarray]:
    """Return equally many boxes of each of these pictures.

    Args:
        num_boxes: take so many first boxes of each; None takes all, which must be equally many.

    Raises:
        InputError: a picture has none, too few, or another number than the first; names it.
    """
    chosen: dict[str, np.ndarray] = {}
    first: str | None = None
    for picture in pictures:
        own = boxes.get(picture)
        if own is None:
            raise InputError(f"--boxes {path} has no box of {picture}")
        if num_boxes is not None and len(own) < num_boxes:
            raise InputError(f"--boxes {path} has {len(own)} boxes of {picture}, --num_boxes is {num_boxes}")
        first = first or picture
        if num_boxes is None and len(own) != len(chosen.get(first, own)):
            raise InputError(
                f"--boxes {path} has {len(own)} boxes of {picture} and {len(chosen[first])} of {first}; all pictures "
                "need equally many: --num_boxes N takes the first N of each"
            )
        chosen[picture] = own[:num_boxes]
    return chosen


def check_inside(boxes: np.ndarray, picture: str, width: int, height: int) -> np.ndarray:
    """Return boxes (n, 4) cut to the picture.

    Raises:
        InputError: one reaches beyond the picture; names both.
    """
    edges = np.array([width, height, width, height])
    outside = ((boxes < -SLACK) | (boxes > edges + SLACK)).any(axis=1)
    if outside.any():
        number = int(outside.argmax())
        raise InputError(
            f"box {number + 1} of picture {picture}, {tuple(boxes[number].tolist())}, reaches outside the picture of "
            f"{width} x {height} pixels"
        )
    return np.clip(boxes, 0, edges)


def _from_table(path: Path) -> Iterator[Place]:
    columns = [0, 1, 2, 3, 4]
    for k, (number, row) in enumerate(read_rows(path)):
        names = [cell.lower() for cell in row]
        if k == 0 and set(CORNERS) <= set(names):
            picture = [c for c, name in enumerate(names) if name in PICTURE_COLUMNS]
            if not picture:
                raise InputError(f"{path} names no column of pictures; known: {', '.join(PICTURE_COLUMNS)}")
            columns = [picture[0], *(names.index(corner) for corner in CORNERS)]
            continue
        if len(row) <= max(columns):
            raise InputError(f"{path} line {number} has {len(row)} fields; a line is: picture, x1, y1, x2, y2")
        yield row[columns[0]], f"{path} line {number}", [row[c] for c in columns[1:]]


def _from_json(path: Path) -> Iterator[Place]:
    content = read_json(path)
    try:
        if isinstance(content, dict):
            for picture, boxes in content.items():
                for k, box in enumerate(boxes):
                    yield picture, f"{path}: box {k + 1} of {picture}", box
        else:
            for k, entry in enumerate(content):
                picture = first_of(entry, PICTURE_COLUMNS)
                yield picture, f"{path}: entry {k}", [entry[corner] for corner in CORNERS]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not of a known shape ({error!r}): {{picture: [[x1, y1, x2, y2], ...]}}, or a list of objects "
            "with image, x1, y1, x2, y2"
        ) from None
