"""What the builders know about a drawing: whose it is, what it shows, and its small grey image."""

from typing import Protocol

import numpy as np

SIZE = 192
"""Pixels of a picture's side."""
GREY = 16
"""Pixels of a grey image's side."""


class Drawing(Protocol):
    """One drawing of one concept."""

    @property
    def concept(self) -> int:
        """Index of the concept."""

    @property
    def artist(self) -> str:
        """Name of the artist."""

    @property
    def source(self) -> str | bytes:
        """What it is drawn from; the same for a drawing that is used again."""


def grey_thumbnails(pixels: np.ndarray) -> np.ndarray:
    """Shrink pictures to the 16 x 16 grey images that the near-duplicate rule compares.

    Args:
        pixels: Pictures, uint8 of shape (pictures, SIZE, SIZE, 3).

    Returns:
        Grey values, uint8 of shape (pictures, 16, 16).
    """
    step = SIZE // GREY
    grey = np.empty((len(pixels), GREY, GREY), np.uint8)
    weights = np.array([299, 587, 114])  # whole numbers: the same bytes on every platform
    for i, picture in enumerate(pixels):
        luma = picture.astype(np.int64) @ weights
        total = luma.reshape(GREY, step, GREY, step).sum(axis=(1, 3))
        grey[i] = (total + 500 * step * step) // (1000 * step * step)
    return grey
