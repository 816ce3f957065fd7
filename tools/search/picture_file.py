"""The region features of one picture file, as the suite's own extraction computes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from runtime.errors import InputError
from tools.extract.__main__ import ExtractConfig, open_backbone
from tools.extract.cells import Regions
from tools.picture_files import picture_files


class OnePicture:
    """A picture in the shape of a split without captions.

    Args:
        path: its file.
        shape: (R, D) that the networks were trained on.
        backbone: as tools.extract takes it: `lite0`, a folder or an .onnx file.
        grid: cells a side.
        gpu: where the backbone runs.

    Raises:
        InputError: no such picture, no such backbone, or features of another shape than the networks know.
    """

    num_images = 1
    lengths = np.zeros(0, dtype=np.int64)

    def __init__(self, path: Path, shape: tuple[int, int], *, backbone: str, grid: int, gpu: str) -> None:
        if not path.is_file():
            raise InputError(f"--image {path} is neither a number of the gallery nor a picture file")
        pixels = picture_files([path]).pixels(0)
        place = str(path.resolve().parent)
        settings = ExtractConfig(images=place, captions=path.name, output=place, backbone=backbone, grid=grid, gpu=gpu)
        regions = Regions(open_backbone(settings), backbone, grid=grid, batch_size=1)
        if tuple(regions.shape) != shape:
            raise InputError(
                f"--backbone {backbone} with --grid {grid} gives {regions.shape[0]} regions x {regions.shape[1]} "
                f"dimensions, the networks were trained on {shape[0]} x {shape[1]}: features of another origin cannot "
                "be searched with; name the backbone that the data set was extracted with, or give --image a number"
            )
        self._features = torch.from_numpy(regions.compute(regions.inputs_of(pixels, None), 1))

    def read_images(self, images: np.ndarray) -> torch.Tensor:
        """Return the features (n, R, D)."""
        return self._features[torch.from_numpy(images)]

    def tokens(self, captions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """There are none."""
        raise AssertionError("a picture has no captions")
