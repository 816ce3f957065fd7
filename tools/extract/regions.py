"""Regions of a picture: the cells of a grid over it, or boxes in it, each a vector of channels; and boxes from a file.

- grid: the picture is resized to the backbone's input, whatever its proportions, so that all of it is covered; the
  feature map is averaged to grid x grid cells, row by row (6 x 6 = 36 regions, as many as published features have).
- boxes: each box is cut out, resized to the backbone's input, and its feature map averaged to one vector. Boxes are in
  pixels from the top left corner: x1 < x2 to the right, y1 < y2 down.

JSON of boxes: {picture: [[x1, y1, x2, y2], ...]}, or [{"image": picture, "x1": .., "y1": .., "x2": .., "y2": ..}, ...].
CSV and TSV: picture, x1, y1, x2, y2, in any order below a line that names the columns; others are left aside.
Legend: B pictures, R regions, H x W pixels, h x w cells of a map, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from runtime.errors import InputError
from tools.extract.backbones import INSTALL, Backbone
from tools.extract.listing import PICTURE_COLUMNS, first_of, read_json, read_rows

try:
    from PIL import Image
except ImportError:  # an optional extra: the rest of the suite works without pictures
    Image: Any = None  # type: ignore[no-redef]


def resized(pixels: np.ndarray, size: tuple[int, int], box: np.ndarray | None = None) -> np.ndarray:
    """Resize (H, W, 3) uint8, or the pixels that a box (4,) touches, to `size` (height, width).

    By Pillow, bicubic and antialiased.
    """
    if Image is None:
        raise InputError(f"pictures need Pillow, which is not installed; run: {INSTALL}")
    if box is None and pixels.shape[:2] == size:
        return pixels
    if box is not None:
        left, top = np.floor(box[:2]).astype(int)
        right, bottom = np.ceil(box[2:]).astype(int)
        pixels = np.ascontiguousarray(pixels[top:bottom, left:right])  # cut, so that the filter sees nothing around it
    picture = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def grid_of(maps: np.ndarray, grid: int, name: str) -> np.ndarray:
    """Average maps (B, h, w, C) to (B, grid * grid, C), row by row; a map of just that size is left as it is.

    Cell i covers the rows from floor(i h / grid) to ceil((i + 1) h / grid), and columns alike.

    Raises:
        InputError: the map has fewer cells.
    """
    height, width, channels = maps.shape[1:]
    if min(height, width) < grid:
        raise InputError(
            f"--backbone {name} gives a map of {height} x {width} cells, --grid {grid} asks for more; lower --grid, or "
            "raise --size"
        )
    if (height, width) != (grid, grid):
        pooled = F.adaptive_avg_pool2d(torch.from_numpy(maps).permute(0, 3, 1, 2), grid)
        maps = pooled.permute(0, 2, 3, 1).numpy()
    return maps.reshape(len(maps), grid * grid, channels)


class Regions:
    """What turns pictures into regions.

    Args:
        backbone: computes feature maps.
        name: what to call it.
        grid: cells a side; None where boxes are given.
        batch_size: pictures, or boxes, that the backbone gets at once.

    Attributes:
        shape: (R, C); with boxes R is one box's.

    Raises:
        InputError: the backbone cannot be run, or its map has too few cells.
    """

    def __init__(self, backbone: Backbone, name: str, *, grid: int | None, batch_size: int) -> None:
        self._backbone, self._name, self._grid, self._batch_size = backbone, name, grid, batch_size
        blank = np.zeros((1, *backbone.size, 3), dtype=np.uint8)  # told before hours of work
        self.shape = self._pooled(blank).shape[1:]

    def _pooled(self, inputs: np.ndarray) -> np.ndarray:
        """Return the cells (n, grid * grid, C) of inputs (n, H, W, 3), or their means (n, 1, C)."""
        maps = self._backbone.maps(inputs)
        if self._grid is not None:
            return grid_of(maps, self._grid, self._name)
        return maps.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)[:, None]

    def inputs_of(self, pixels: np.ndarray, boxes: np.ndarray | None) -> np.ndarray:
        """Return what the backbone gets for a picture (H, W, 3): (1, ...) for a grid, (R, ...) for boxes (R, 4)."""
        if self._grid is not None:
            return resized(pixels, self._backbone.size)[None]
        assert boxes is not None
        return np.stack([resized(pixels, self._backbone.size, box) for box in boxes])

    def compute(self, inputs: np.ndarray, pictures: int) -> np.ndarray:
        """Return the regions (pictures, R, C) float32 of the inputs of so many pictures, one after the other."""
        starts = range(0, len(inputs), self._batch_size)
        vectors = np.concatenate([self._pooled(inputs[start : start + self._batch_size]) for start in starts])
        return vectors.reshape(pictures, -1, vectors.shape[-1])


GRID = 6
"""Cells a side, if nothing else is asked for."""
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
