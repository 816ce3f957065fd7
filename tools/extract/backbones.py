"""What computes feature maps of pictures: EfficientNet-Lite0, a `transformers` folder on disk, or an ONNX file.

Legend: B pictures, H x W pixels, h x w cells, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.errors import InputError

INSTALL = "python -m pip install -r requirements-extract.txt"
"""What makes the optional extra work."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MOST_EXTRA_TOKENS = 8
"""So many tokens at most stand before a transformer's patches: class, distillation, registers."""


class Backbone(Protocol):
    """A network.

    Attributes:
        size: (height, width) of the pictures it takes.
    """

    size: tuple[int, int]

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        """Compute feature maps of pictures (B, H, W, 3) uint8: (B, h, w, C) float32."""


@dataclass(frozen=True)
class BackboneOptions:
    """What a user may say of a backbone.

    Attributes:
        size: side of the square pictures it gets; None is its own.
        mean: of each channel, of values from 0 to 1; None is its own, or ImageNet's.
        std: the same.
        output: name of an ONNX file's output; None is the first.
    """

    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str | None = None


def normalised(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Scale (B, H, W, 3) uint8 to 0 .. 1, then to the mean and deviation that a network was trained with; float32."""
    values = pixels.astype(np.float32) / np.float32(255)
    return (values - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)


def as_maps(output: np.ndarray, name: str, *, channels_last: bool = False) -> np.ndarray:
    """Return a network's output as maps (B, h, w, C) float32.

    Args:
        output: (B, C, h, w), or (B, h, w, C) with `channels_last`; (B, T, C) of a transformer, whose last h * w = h^2
            tokens are the patches; or (B, C) of a network that pools, which gives one cell.
        name: what to call the network.

    Raises:
        InputError: another shape.
    """
    if output.ndim == 4:
        maps = output if channels_last else output.transpose(0, 2, 3, 1)
    elif output.ndim == 3:
        count = output.shape[1]
        extra = next(
            (n for n in range(min(MOST_EXTRA_TOKENS + 1, count)) if math.isqrt(count - n) ** 2 == count - n), None
        )
        if extra is None:
            raise InputError(f"--backbone {name} gives {count} tokens, which are no square of patches")
        side = math.isqrt(count - extra)
        maps = output[:, extra:].reshape(len(output), side, side, -1)
    elif output.ndim == 2:
        maps = output[:, None, None]
    else:
        raise InputError(
            f"--backbone {name} gives an output of shape {output.shape}; known: (pictures, channels, height, width), "
            "(pictures, tokens, channels), (pictures, channels)"
        )
    if 0 in maps.shape:
        raise InputError(f"--backbone {name} gives an empty map; raise --size")
    return np.ascontiguousarray(maps, dtype=np.float32)
