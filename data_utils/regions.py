"""Region features from disk, larger than memory if need be: `{split}_ims.npy` or `{split}_ims.h5`.

npy: any float dtype, read through a memory map. HDF5: dataset `features` of any float dtype, or int8 with a dataset
`scales` (D,), value = features * scales. Both have the shape (rows, R regions, D).
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from runtime.errors import InputError

IN_MEMORY_BYTES = 512 * 2**20
"""An HDF5 split whose float32 form is no larger is decoded once and kept: decompressing every batch anew costs more."""

SCAN_BYTES = 2 * 2**30
SCAN_ROWS = 256
"""A split of up to so many bytes (in float32) is scanned for NaN when it is opened, so many rows at a time."""


class RegionStore:
    """Rows of region features.

    Args:
        folder: the data set's folder.
        split: `train`, `dev`, `test`, ...

    Attributes:
        path: the file.
        shape: (rows, R, D).

    Raises:
        InputError: no such file, or not a numeric 3-D array.
    """

    def __init__(self, folder: Path, split: str) -> None:
        npy, hdf5 = folder / f"{split}_ims.npy", folder / f"{split}_ims.h5"
        if not npy.is_file() and not hdf5.is_file():
            raise InputError(f"split {split!r} has no features: neither {npy} nor {hdf5.name} is there")
        self.path = npy if npy.is_file() else hdf5
        self._scales: np.ndarray | None = None
        self._array: np.ndarray | h5py.Dataset = self._open_npy() if npy.is_file() else self._open_hdf5()
        if self._array.ndim != 3 or 0 in self._array.shape:
            raise InputError(f"{self.path} has shape {self._array.shape}; it must be (images, regions, dimensions)")
        self.shape: tuple[int, int, int] = tuple(int(n) for n in self._array.shape)  # type: ignore[assignment]
        if self._scales is not None and self._scales.shape != (self.shape[2],):
            raise InputError(f"{self.path}: scales have shape {self._scales.shape}; they must be ({self.shape[2]},)")
        if isinstance(self._array, h5py.Dataset) and 4 * int(np.prod(self.shape)) <= IN_MEMORY_BYTES:
            self._array, self._scales = self.read(np.arange(self.shape[0])), None

    def _open_npy(self) -> np.ndarray:
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{self.path} is not a numeric npy file: {error}") from None
        if array.dtype.kind != "f":
            raise InputError(f"{self.path} holds {array.dtype}; features must be floating-point numbers")
        return array

    def _open_hdf5(self) -> h5py.Dataset:
        try:
            file = h5py.File(self.path, "r")
        except OSError as error:
            raise InputError(f"{self.path} is not an HDF5 file: {error}") from None
        features, scales = file.get("features"), file.get("scales")
        if not isinstance(features, h5py.Dataset):
            raise InputError(f"{self.path} has no dataset 'features'; it holds {', '.join(file) or 'nothing'}")
        if features.dtype == np.int8 and isinstance(scales, h5py.Dataset):
            self._scales = scales[()].astype(np.float32)
        elif features.dtype.kind != "f":
            raise InputError(
                f"{self.path}: 'features' are {features.dtype}; they must be floats, or int8 with a dataset 'scales'"
            )
        return features

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of `rows` (n,) as float32 (n, R, D), each row read from disk once.

        Raises:
            InputError: a feature is NaN or infinite; names the row.
        """
        unique, inverse = np.unique(rows, return_inverse=True)
        is_plain = len(unique) == len(rows) and np.array_equal(unique, rows)
        source = self._array[unique] if isinstance(self._array, h5py.Dataset) else self._array[rows]
        features = np.asarray(source, dtype=np.float32)
        if self._scales is not None:
            features = features * self._scales
        if isinstance(self._array, h5py.Dataset) and not is_plain:
            features = features[inverse]
        if not np.isfinite(features).all():
            bad = int(rows[~np.isfinite(features).all(axis=(1, 2))][0])
            raise InputError(f"{self.path} row {bad} holds NaN or infinite features; extract that image again")
        return features

    def check_finite(self) -> None:
        """Read every row once, if that is quick, so that a broken one is told before training.

        Larger files are checked row by row as they are read.

        Raises:
            InputError: a feature is NaN or infinite; names the row.
        """
        if 4 * int(np.prod(self.shape)) <= SCAN_BYTES:
            for start in range(0, len(self), SCAN_ROWS):
                self.read(np.arange(start, min(start + SCAN_ROWS, len(self))))
