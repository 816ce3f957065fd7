"""The feature maps of a set's pictures in a file of the work folder, as far as they were computed before."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from data_utils.conversion import Plan, convert
from data_utils.extraction.lite0 import CHANNELS, Lite0
from data_utils.region_writers import Shape
from data_utils.set_builder.regions import CELLS

BATCH = 16


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
        """Compute the maps of some pictures.

        Args:
            rows: Their indices.

        Returns:
            float32 of shape (rows, CELLS, CHANNELS), cells row by row.
        """
        batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        maps = [self._network.maps(self._pixels[batch]) for batch in batches]
        return np.concatenate(maps).reshape(len(rows), CELLS, CHANNELS)


def digest(pixels: np.ndarray) -> str:
    """Tell pictures from other ones.

    Args:
        pixels: uint8 of shape (pictures, height, width, 3).

    Returns:
        A hexadecimal digest of their pixels, read one picture at a time.
    """
    total = hashlib.sha256()
    for picture in pixels:
        total.update(np.ascontiguousarray(picture).data)
    return total.hexdigest()


def compute_cells(pixels: np.ndarray, work: Path) -> np.ndarray:
    """Compute the feature maps of all pictures, or take those that are in the work folder.

    What was broken off goes on where it was; of other pictures nothing is taken.

    Args:
        pixels: Pictures, uint8 of shape (pictures, 192, 192, 3).
        work: Folder for the file.

    Returns:
        Memory-mapped float32 of shape (pictures, CELLS, CHANNELS).

    Raises:
        InputError: If the file cannot be written.
    """
    name = digest(pixels)
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
