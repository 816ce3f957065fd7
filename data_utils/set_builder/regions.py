"""Region features: cells of the last feature map of EfficientNet-Lite0, reduced by PCA and stored in 8 bits."""

from dataclasses import dataclass

import numpy as np

from data_utils.extraction.lite0 import CHANNELS

CELLS = 36
BLOCK = 500
"""Pictures that are projected at a time."""


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

    def __call__(self, cells: np.ndarray) -> np.ndarray:
        """Project cells.

        Args:
            cells: Shape (..., CHANNELS).

        Returns:
            float64 of shape (..., dims).
        """
        return (cells.astype(np.float64) - self.mean) @ self.axes


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


def project(projection: Projection, cells: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Project the cells of some pictures, a block of pictures at a time.

    Args:
        projection: The projection.
        cells: All cells, float32 of shape (pictures, CELLS, CHANNELS), may be a memory map.
        rows: Indices of the pictures, shape (rows,).

    Returns:
        float64 of shape (rows, CELLS, dims).
    """
    return np.concatenate([projection(cells[rows[i : i + BLOCK]]) for i in range(0, len(rows), BLOCK)])


def agreement(features: np.ndarray, concepts: np.ndarray) -> float:
    """Measure how often the nearest other picture, by mean feature, shows the same concept.

    Args:
        features: Shape (pictures, cells, dims).
        concepts: Concept of each picture, shape (pictures,).

    Returns:
        The share.
    """
    mean = features.mean(axis=1)
    mean = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    likeness = mean @ mean.T
    np.fill_diagonal(likeness, -np.inf)
    return float((concepts[likeness.argmax(axis=1)] == concepts).mean())


def quantise(features: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Round features to 8-bit steps.

    Args:
        features: Shape (pictures, CELLS, dims).
        scales: Width of a step for each dimension, shape (dims,).

    Returns:
        int8 of shape (pictures, CELLS, dims); value = int8 * scale.
    """
    return np.clip(np.rint(features / scales), -127, 127).astype(np.int8)


def choose_scales(features: np.ndarray, step: float) -> np.ndarray:
    """Choose the steps: one common step, wider only where 8 bits would not reach the largest value.

    Args:
        features: Training features, shape (train, CELLS, dims).
        step: The common step; with mean square 1 its noise is `step ** 2 / 12`.

    Returns:
        float32 of shape (dims,).
    """
    reach = np.abs(features).reshape(-1, features.shape[-1]).max(axis=0)
    return np.maximum(step, reach / 127.0).astype(np.float32)


def signal_to_noise(features: np.ndarray, stored: np.ndarray, scales: np.ndarray) -> float:
    """Measure what the 8 bits lose.

    Args:
        features: Exact features, shape (pictures, CELLS, dims).
        stored: The same in 8 bits.
        scales: The steps, shape (dims,).

    Returns:
        Signal-to-noise ratio in decibels.
    """
    noise = np.square(stored * scales.astype(np.float64) - features).mean()
    return float(10.0 * np.log10(np.square(features).mean() / noise))
