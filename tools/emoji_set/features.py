"""Region features: cells of the last feature map of EfficientNet-Lite0, reduced by PCA and stored in 8 bits.

The feature maps are kept in a file of the work folder; what was broken off goes on where it was.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tools.convert.conversion import Plan, Shape, convert
from tools.extract.backbones import CHANNELS, Lite0

CELLS = 36
BATCH = 16
"""Pictures that the network sees at a time."""
BLOCK = 500
"""Pictures that are projected at a time."""


class FeatureMaps:
    """Feature maps of pictures as something that a conversion reads block by block.

    The network runs in double precision: rounding differences between machines and thread counts then stay
    far too small to move a value across a step of the 8-bit storage.

    Args:
        pixels: Pictures, uint8 of shape (pictures, 192, 192, 3).
        path: What to call them in messages.
    """

    dtype = np.dtype(np.float32)
    block_rows = BATCH

    def __init__(self, pixels: np.ndarray, path: Path) -> None:
        self.path = path
        self.shape: Shape = (len(pixels), CELLS, CHANNELS)
        self._pixels = pixels
        self._network = Lite0(torch.device("cpu"), torch.float64)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Compute the maps of the pictures `rows`: float32 of shape (rows, CELLS, CHANNELS), cells row by row."""
        batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        maps = [self._network.maps(self._pixels[batch]) for batch in batches]
        return np.concatenate(maps).reshape(len(rows), CELLS, CHANNELS)


def compute_cells(pixels: np.ndarray, work: Path) -> np.ndarray:
    """Compute the feature maps of all pictures, or take those of the same pictures that are in the work folder.

    Args:
        pixels: Pictures, uint8 of shape (pictures, 192, 192, 3).
        work: Folder for the file.

    Returns:
        Memory-mapped float32 of shape (pictures, CELLS, CHANNELS).

    Raises:
        InputError: The file cannot be written.
    """
    name = hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
    path = work / f"cells-{name[:16]}.npy"
    if not path.exists():
        counted = 0

        def advance(rows: int) -> None:
            nonlocal counted
            counted += rows
            print(f"feature maps: {counted} of {len(pixels)} pictures", flush=True)

        maps = FeatureMaps(pixels, path)
        convert(Plan(maps, path, maps.dtype, {"pictures": name}), advance)
    return np.load(path, mmap_mode="r")


@dataclass(frozen=True)
class Projection:
    """A principal component analysis with one common scale.

    Attributes:
        mean: Mean cell, float64 of shape (CHANNELS,).
        axes: Scaled principal axes, float64 of shape (CHANNELS, dims).
        kept: Share of the variance that the axes keep.
    """

    mean: np.ndarray
    axes: np.ndarray
    kept: float

    def __call__(self, cells: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Project the cells (pictures, CELLS, CHANNELS) of the pictures `rows`: float64 (rows, CELLS, dims)."""
        blocks = (cells[rows[i : i + BLOCK]].astype(np.float64) for i in range(0, len(rows), BLOCK))
        return np.concatenate([(block - self.mean) @ self.axes for block in blocks])


def fit_projection(cells: np.ndarray, rows: np.ndarray, dims: int) -> Projection:
    """Fit the projection on the cells of some pictures.

    Args:
        cells: All cells, float32 of shape (pictures, CELLS, CHANNELS).
        rows: The training pictures, shape (train,).
        dims: Number of principal axes.

    Returns:
        The projection; over the training pictures its mean square is 1.
    """
    total, moment = np.zeros(CHANNELS), np.zeros((CHANNELS, CHANNELS))
    for part in np.array_split(rows, max(1, len(rows) // 100)):
        block = cells[part].reshape(-1, CHANNELS).astype(np.float64)
        total += block.sum(axis=0)
        moment += block.T @ block
    count = len(rows) * CELLS
    mean = total / count
    variances, axes = np.linalg.eigh(moment / count - np.outer(mean, mean))
    variances, axes = variances[::-1], axes[:, ::-1][:, :dims]
    # An axis may point either way: the largest loading is made positive, for the same features on rebuilding.
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(dims)])
    kept = float(variances[:dims].sum())
    return Projection(mean, axes / np.sqrt(kept / dims), kept / float(variances.sum()))


def choose_scales(features: np.ndarray, step: float) -> np.ndarray:
    """Choose the widths of the 8-bit steps, wider than `step` only where they would not reach the largest value.

    Args:
        features: Training features, shape (train, CELLS, dims).
        step: The common step; with mean square 1 its noise is `step ** 2 / 12`.

    Returns:
        float32 of shape (dims,).
    """
    reach = np.abs(features).reshape(-1, features.shape[-1]).max(axis=0)
    return np.maximum(step, reach / 127.0).astype(np.float32)


def quantise(features: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, float]:
    """Round features to 8-bit steps.

    Args:
        features: Shape (pictures, CELLS, dims).
        scales: Width of a step for each dimension, shape (dims,).

    Returns:
        int8 of the same shape, value = int8 * scale; and the signal-to-noise ratio in decibels.
    """
    stored = np.clip(np.rint(features / scales), -127, 127).astype(np.int8)
    noise = np.square(stored * scales.astype(np.float64) - features).mean()
    return stored, float(10.0 * np.log10(np.square(features).mean() / noise))
