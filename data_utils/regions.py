"""Region features from disk, larger than memory if need be: `{split}_ims.npy` or `{split}_ims.h5`.

npy: any float dtype, read through a memory map. HDF5: dataset `features` of any float dtype, or int8 with a dataset
`scales` (D,), value = features * scales. Both have the shape (rows, R regions, D).
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import h5py
import numpy as np

from data_utils.arrays import dataset_of, hdf5_faults, open_hdf5, open_npy
from runtime.errors import InputError
from runtime.flags import did_you_mean

IN_MEMORY_BYTES = 512 * 2**20
"""An HDF5 split whose float32 form is no larger is decoded once and kept: decompressing every batch anew costs more."""

SCAN_BYTES = 2 * 2**30
SCAN_ROWS = 256
"""A split of up to so many bytes (in float32) is scanned for NaN when it is opened, so many rows at a time."""


def regions_file(folder: Path, split: str) -> Path:
    """Return the split's feature file.

    Raises:
        InputError: there is none; names the files it looked for.
    """
    npy, hdf5 = folder / f"{split}_ims.npy", folder / f"{split}_ims.h5"
    if not npy.is_file() and not hdf5.is_file():
        there = (path.name.removesuffix(f"_ims{path.suffix}") for path in folder.glob("*_ims.*"))
        raise InputError(
            f"split {split!r} has no features:{did_you_mean(split, there)} neither {npy} nor {hdf5.name} is there"
        )
    return npy if npy.is_file() else hdf5


class RegionFile:
    """Rows of region features in one file, read from the disk as they are asked for.

    Args:
        path: an npy file by its suffix, any other is HDF5.

    Attributes:
        path: the file.
        shape: (rows, R, D).
        dtype: type of the stored numbers.
        block_rows: rows that are stored together; whole blocks from the start on are read without reading twice.

    Raises:
        InputError: not such a file, cut short, or not a numeric 3-D array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scales: np.ndarray | None = None
        self._array: np.ndarray | h5py.Dataset = self._open_npy() if path.suffix == ".npy" else self._open_hdf5()
        if self._array.ndim != 3 or 0 in self._array.shape:
            raise InputError(f"{path} has shape {self._array.shape}; it must be (images, regions, dimensions)")
        self.shape: tuple[int, int, int] = tuple(int(n) for n in self._array.shape)  # type: ignore[assignment]
        self.dtype: np.dtype = self._array.dtype
        self.block_rows = int((getattr(self._array, "chunks", None) or (1,))[0])

    def _open_npy(self) -> np.ndarray:
        array = open_npy(self.path)
        if array.dtype.kind != "f":
            raise InputError(f"{self.path} holds {array.dtype}; features must be floating-point numbers")
        return array

    def _open_hdf5(self) -> h5py.Dataset:
        file = open_hdf5(self.path)
        with hdf5_faults(self.path):
            features, scales = dataset_of(file, "features"), dataset_of(file, "scales")
            if features is None:
                raise InputError(f"{self.path} has no dataset 'features'; it holds {', '.join(file) or 'nothing'}")
            if features.dtype == np.int8 and scales is not None:
                self._scales = self._read_scales(scales, features)
            elif features.dtype.kind != "f":
                raise InputError(
                    f"{self.path}: 'features' are {features.dtype}; they must be floats, or int8 with a dataset "
                    "'scales'"
                )
        return features

    def _read_scales(self, scales: h5py.Dataset, features: h5py.Dataset) -> np.ndarray:
        expected = features.shape[-1:]
        if scales.shape != expected or scales.dtype.kind not in "fiu":
            raise InputError(
                f"{self.path}: scales have shape {scales.shape} and type {scales.dtype}; they must be numbers, "
                f"{expected}"
            )
        return scales[()].astype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of `rows` (n,) as float32 (n, R, D) of its own, each row read from disk once.

        Raises:
            InputError: a feature is NaN or infinite; names the row.
        """
        features = self.read_unchecked(rows)
        if not _is_finite(features):
            bad = int(rows[~np.isfinite(features).all(axis=(1, 2))][0])
            raise InputError(f"{self.path} row {bad} holds NaN or infinite features; extract that image again")
        return features

    def read_unchecked(self, rows: np.ndarray) -> np.ndarray:
        """Do what `read` does, but let NaN and infinity pass.

        A map of a file that has been cut since ends the process where it is read, so its size is asked for first.
        """
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which `read` tells
            if isinstance(self._array, h5py.Dataset):
                return self._read_hdf5(self._array, rows)
            array = self._array
            if isinstance(array.base, mmap.mmap) and array.base.size() < array.offset + array.nbytes:  # type: ignore[union-attr]
                raise InputError(f"{self.path} was cut short while it was in use; copy it again")
            return _read_mapped(array, rows)

    def _read_hdf5(self, dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
        unique, inverse = np.unique(rows, return_inverse=True)  # HDF5 wants rows in order, each once
        is_run = len(unique) > 0 and unique[-1] - unique[0] == len(unique) - 1
        with hdf5_faults(self.path):  # a run is one piece to HDF5, a list of rows as many pieces as it has rows
            features = dataset[unique[0] : unique[-1] + 1] if is_run else dataset[unique]
        features = np.asarray(features, dtype=np.float32)
        if self._scales is not None:
            features = features * self._scales
        return features if np.array_equal(unique, rows) else features[inverse]


class RegionStore(RegionFile):
    """A split's region features; a small HDF5 file is decoded once and kept.

    Args:
        folder: the data set's folder.
        split: `train`, `dev`, `test`, ...

    Raises:
        InputError: no such file, or what `RegionFile` raises.
    """

    def __init__(self, folder: Path, split: str) -> None:
        super().__init__(regions_file(folder, split))
        if isinstance(self._array, h5py.Dataset) and 4 * math.prod(self.shape) <= IN_MEMORY_BYTES:
            self._array, self._scales = self.read(np.arange(self.shape[0])), None

    def check_finite(self) -> None:
        """Read every row once, if that is quick, so that a broken one is told before training.

        Larger files are checked row by row as they are read.

        Raises:
            InputError: a feature is NaN or infinite; names the row.
        """
        if 4 * math.prod(self.shape) <= SCAN_BYTES:
            for start in range(0, len(self), SCAN_ROWS):
                self.read(np.arange(start, min(start + SCAN_ROWS, len(self))))


def _read_mapped(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Copy rows of a memory map, if it is one.

    The system is told first which rows will be read, since a disk reads them side by side if it is told of all at once.
    Afterwards their pages are given back: they stay in the system's cache, but count no more as this process's memory.
    """
    mapped = array.base
    if not isinstance(mapped, mmap.mmap) or not hasattr(mapped, "madvise") or not array.flags.c_contiguous:
        return np.asarray(array[rows], dtype=np.float32, order="C")
    size, start = array[:1].nbytes, array.offset % mmap.ALLOCATIONGRANULARITY  # type: ignore[attr-defined]
    for place in (start + np.unique(rows) * size).tolist():
        page = place - place % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, place + size - page)
    read = np.asarray(array[rows], dtype=np.float32, order="C")
    mapped.madvise(mmap.MADV_DONTNEED)
    return read


def _is_finite(features: np.ndarray) -> bool:
    """Tell whether all values are finite: their squares' sum is, unless it overflows, and then each is looked at."""
    flat = features.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(flat, flat)) or np.isfinite(flat).all())
