"""Region features written row by row into a file of known size, which may be closed and gone on with at any row.

Both kinds of file get their whole size and all of their structure when they are made, so that rows only fill places
that are there: whatever is broken off, the rows written before the last `sync` are in the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

Shape = tuple[int, int, int]
"""(rows, R regions, D)."""


class RegionWriter(Protocol):
    """A file that is filled.

    Args:
        path: the file.
        shape: its rows, regions and dimensions.
        dtype: type of the numbers, float16 or float32.
        is_new: make it; otherwise it is there and goes on.

    Raises:
        OSError: it cannot be written.
        ValueError: going on, and the file is not what was made here.
    """

    def __init__(self, path: Path, shape: Shape, dtype: np.dtype, *, is_new: bool) -> None: ...

    def write(self, start: int, features: np.ndarray) -> None:
        """Fill the rows from `start` on with (n, R, D) of the file's dtype."""

    def sync(self) -> None:
        """Return when all that was written is on the disk."""

    def close(self) -> None:
        """Close the file."""


class NpyWriter:
    """An npy file in C order, little-endian."""

    def __init__(self, path: Path, shape: Shape, dtype: np.dtype, *, is_new: bool) -> None:
        self._row_bytes = shape[1] * shape[2] * dtype.itemsize
        self._file = open(path, "w+b" if is_new else "r+b")
        if is_new:
            header = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._start = self._file.tell()
            self._file.truncate(self._start + shape[0] * self._row_bytes)
            return
        np.lib.format.read_magic(self._file)
        found = np.lib.format.read_array_header_1_0(self._file)
        self._start = self._file.tell()
        size = os.fstat(self._file.fileno()).st_size
        if found != (shape, False, dtype) or size != self._start + shape[0] * self._row_bytes:
            self._file.close()
            raise ValueError(f"{path} is another array")

    def write(self, start: int, features: np.ndarray) -> None:
        """Fill the rows from `start` on."""
        self._file.seek(self._start + start * self._row_bytes)
        self._file.write(np.ascontiguousarray(features).data)

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Hdf5Writer:
    """An HDF5 file with the dataset `features`, a chunk an image.

    All chunks get their place at once: the tree that finds them is on the disk before the first row, and a process
    that is ended while it writes rows cannot leave that tree half-changed.
    """

    def __init__(self, path: Path, shape: Shape, dtype: np.dtype, *, is_new: bool) -> None:
        self._path = path
        if is_new:
            with h5py.File(path, "w") as file:
                layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                layout.set_chunk((1, *shape[1:]))
                layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                kind = h5py.h5t.py_create(dtype, logical=True)
                h5py.h5d.create(file.id, b"features", kind, h5py.h5s.create_simple(shape), layout)
            self.sync()
        self._file = h5py.File(path, "r+")
        features = self._file.get("features")
        if not isinstance(features, h5py.Dataset) or (features.shape, features.dtype) != (shape, dtype):
            self._file.close()
            raise ValueError(f"{path} is another dataset")
        self._features = features

    def write(self, start: int, features: np.ndarray) -> None:
        """Fill the rows from `start` on."""
        with _telling_of_the_disk():
            self._features[start : start + len(features)] = features

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        if hasattr(self, "_file"):
            with _telling_of_the_disk():
                self._file.flush()
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the file."""
        with _telling_of_the_disk():
            self._file.close()


@contextlib.contextmanager
def _telling_of_the_disk() -> Iterator[None]:
    """Turn what h5py raises when a disk fails into an `OSError` too."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from None


WRITERS: dict[str, type[RegionWriter]] = {".npy": NpyWriter, ".h5": Hdf5Writer}
"""By the file's suffix."""
