"""A conversion of region features: a block of rows is read and written at a time, and can be broken off at any time.

The output is written as OUTPUT.part, and after each block, once that is on the disk, OUTPUT.part.json tells how many
rows it has. It gets its name when it is whole. Both kinds of file get their whole size and all of their structure when
they are made, so that rows only fill places that are there: whatever is broken off, the rows written before the last
`sync` are in the file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from runtime.errors import InputError
from runtime.files import parse_json, write_atomically, write_json
from tools.convert.bottom_up import BottomUpFile

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


BLOCK_BYTES = 16 * 2**20
"""So much, in float32, is read and written at a time, and lost at most by an interruption."""

FLOAT16_END = 65520.0
"""The smallest number that float16 rounds to infinity."""


class Source(Protocol):
    """What is read: a `RegionFile` or a `BottomUpFile`."""

    path: Path
    shape: Shape
    dtype: np.dtype
    block_rows: int

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as (n, R, D) float32, all of them finite."""


@dataclass(frozen=True)
class Plan:
    """One conversion.

    Attributes:
        source: what is read.
        target: the file to write.
        dtype: type of the numbers written.
        identity: what tells this conversion from another one of the same output, for going on with it.
    """

    source: Source
    target: Path
    dtype: np.dtype
    identity: dict[str, Any]

    @property
    def part(self) -> Path:
        """The output while it is not whole."""
        return self.target.with_name(self.target.name + ".part")

    @property
    def state(self) -> Path:
        """How far it is."""
        return self.target.with_name(self.target.name + ".part.json")

    @property
    def ids(self) -> Path:
        """Where the image of each row is told, for a source that knows it."""
        return self.target.with_suffix(".ids.txt")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as it is written."""
        return self.source.shape[1] * self.source.shape[2] * self.dtype.itemsize

    @property
    def block(self) -> int:
        """Rows of a block: whole chunks of the source, if they are not too large."""
        rows = max(1, BLOCK_BYTES // (4 * self.source.shape[1] * self.source.shape[2]))
        chunk = self.source.block_rows
        return max(chunk, rows - rows % chunk) if chunk <= 4 * rows else rows

    def rows_done(self) -> int:
        """Return how many rows an interrupted conversion of the same kind has written; 0 if there is none."""
        try:
            state = parse_json(self.state.read_bytes())
            is_same = {name: state[name] for name in self.identity} == self.identity
            rows = state["rows_done"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return (
            rows
            if is_same and isinstance(rows, int) and 0 <= rows <= self.source.shape[0] and self.part.is_file()
            else 0
        )

    def forget(self) -> None:
        """Delete the unfinished output."""
        for path in (self.part, self.state):
            path.unlink(missing_ok=True)


def narrowed(features: np.ndarray, dtype: np.dtype, source: Path, start: int) -> np.ndarray:
    """Return features (n, R, D) float32 in `dtype`.

    Raises:
        InputError: a number is too large for float16; names the row, which is `start` and what follows.
    """
    if dtype == np.float16 and max(features.max(), -features.min()) >= FLOAT16_END:
        row = int(np.abs(features).max(axis=(1, 2)).argmax())
        value = np.abs(features[row]).max()
        raise InputError(f"{source} row {start + row} holds {value:g}, too large for float16; take --dtype float32")
    return features.astype(dtype, copy=False)


def check_space(target: Path, needed: int) -> None:
    """Raise `InputError` if the disk of `target`, in a folder that is there, has fewer bytes left than are needed."""
    if needed > (free := shutil.disk_usage(target.parent).free):
        raise InputError(f"--output {target} takes {needed} bytes, the disk has {free} left; free some, or --dtype")


def _open(plan: Plan) -> tuple[RegionWriter, int]:
    """Return the unfinished output and how many rows it has: that of an interrupted conversion, or a new one."""
    kind, shape, done = WRITERS[plan.target.suffix], plan.source.shape, plan.rows_done()
    if done:
        with contextlib.suppress(OSError, ValueError):  # damaged: made anew
            return kind(plan.part, shape, plan.dtype, is_new=False), done
    plan.forget()
    check_space(plan.target, shape[0] * plan.row_bytes)
    return kind(plan.part, shape, plan.dtype, is_new=True), 0


def _read(plan: Plan, rows: np.ndarray) -> np.ndarray:
    """Return rows in the type that is written; a fault in them leaves nothing of the output behind."""
    try:
        return narrowed(plan.source.read(rows), plan.dtype, plan.source.path, int(rows[0]))
    except OSError as error:
        raise InputError(f"{plan.source.path} cannot be read: {error.strerror or error}") from None
    except InputError:
        plan.forget()
        raise


def convert(plan: Plan, advance: Callable[[int], None]) -> int:
    """Write the output, going on where an interrupted conversion was; return the row it started at.

    Args:
        advance: told how many more rows are done.

    Raises:
        InputError: the input has a fault, which leaves nothing behind, or the output cannot be written, which leaves
            what is there to be gone on with.
    """
    try:
        writer, first = _open(plan)
    except OSError as error:
        raise InputError(f"--output {plan.target} cannot be written: {error.strerror or error}") from None
    advance(first)
    num_rows, done = plan.source.shape[0], first
    try:
        while done < num_rows:
            rows = np.arange(done, min(done + plan.block, num_rows))
            features = _read(plan, rows)
            writer.write(done, features)
            writer.sync()
            done += len(rows)
            write_json(plan.state, {**plan.identity, "rows_done": done})
            advance(len(rows))
        writer.close()
        if isinstance(plan.source, BottomUpFile):
            write_atomically(plan.ids, ("\n".join(plan.source.ids) + "\n").encode())
        os.replace(plan.part, plan.target)
        plan.state.unlink()
    except OSError as error:
        raise InputError(
            f"{plan.part} cannot be written: {error.strerror or error}; {done} of {num_rows} rows are there, and the "
            "same command goes on from them"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            writer.close()
    return first
