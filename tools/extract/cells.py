"""Regions of a picture: the cells of a grid over it, or boxes in it, each a vector of channels.

- grid: the picture is resized to the backbone's input, whatever its proportions, so that all of it is covered; the
  feature map is averaged to grid x grid cells, row by row (6 x 6 = 36 regions, as many as published features have).
- boxes: each box is cut out, resized to the backbone's input, and its feature map averaged to one vector.
Legend: B pictures, R regions, H x W pixels, h x w cells of a map, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from runtime.errors import InputError
from tools.extract.backbones import INSTALL, Backbone

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
