"""npy and HDF5 files that somebody else wrote: what they claim is compared with what is stored, before it is read.

numpy believes a header: one that claims 10^15 rows makes it ask for their memory first and look into the file later. An
HDF5 dataset of 10^15 rows needs no more than a few bytes: the library makes up what is not stored. It may also keep its
numbers in other files of the machine, or be a link into one.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from runtime.errors import InputError
from runtime.files import HDF5, HEAD_BYTES, NPY, foreign_kind, kind_of_file

# -- npy ---------------------------------------------------------------------------------------------------------------

READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""By version. The third is for names of fields, which no array of numbers has."""

LONGEST = 2**60
"""No side of an array is longer, even of an empty one: numpy's own arithmetic would go over its end."""


@dataclass(frozen=True)
class Header:
    """What an npy file says of itself, found true.

    Attributes:
        shape: of the array.
        is_fortran: columns lie together.
        dtype: type of the numbers.
        start: byte at which they begin.
    """

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype
    start: int

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)


def read_header(file: BinaryIO, size: int) -> Header:
    """Read the header of an npy file of `size` bytes; leaves `file` at its first number.

    Raises:
        ValueError: no such file, or one that holds less than its header says; follows the file's name in a message.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if kind := foreign_kind(head, NPY):
        raise ValueError(kind)
    try:
        version = np.lib.format.read_magic(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, is_fortran, dtype = READERS[version](file)
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python, which can fail in any way
        reason = f"version {version}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ValueError(f"is not a numeric npy file: {reason}") from None
    if dtype.hasobject or dtype.fields or not dtype.itemsize:
        raise ValueError(f"is not a numeric npy file: it holds {dtype}")
    needed = file.tell() + math.prod(shape) * dtype.itemsize
    if any(isinstance(n, bool) or not 0 <= n <= LONGEST for n in shape):
        raise ValueError(f"is damaged: its header says shape {shape}; copy it again")
    if size < needed:
        raise ValueError(f"is cut short: shape {shape} of {dtype} takes {needed} bytes, it has {size}; copy it again")
    return Header(shape, bool(is_fortran), dtype, file.tell())


def open_npy(path: Path, name: str | None = None) -> np.memmap | np.ndarray:
    """Map an npy file of numbers into memory, read-only.

    Args:
        path: the file.
        name: what a message calls it; the path by default.

    Raises:
        InputError: it cannot be read, is no such file, or is cut short.
    """
    try:
        with open(path, "rb") as file:
            header = read_header(file, os.fstat(file.fileno()).st_size)
        order = "F" if header.is_fortran else "C"
        if not header.count:
            return np.empty(header.shape, header.dtype)
        return np.memmap(path, header.dtype, "r", header.start, header.shape, order)  # type: ignore[call-overload]
    except OSError as error:
        raise InputError(f"{name or path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{name or path} {error}") from None


# -- HDF5 ------------------------------------------------------------------------------------------------------------

MOST_PACKED = 1100
"""Deflate, the strongest packing that every HDF5 has, makes data 1,032 times smaller at most."""

LARGEST_CHUNK = 2**28
"""Bytes that are unpacked at once: 900 images of 36 x 2048 numbers."""

SMALLEST_PACKED = 5
"""Bytes of a chunk: a checksum is 4 of them, and the library subtracts those without looking."""

FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
"""Others take sizes from the file that the library does not check, or code from a folder of the machine."""


@contextlib.contextmanager
def hdf5_faults(path: Path) -> Iterator[None]:
    """Turn whatever the library raises on a damaged file into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # its classes depend on the place of the damage
        raise InputError(f"{path} is damaged; copy it again: {error}") from None


def open_hdf5(path: Path, **settings: Any) -> h5py.File:
    """Open an HDF5 file to read.

    Args:
        path: the file.
        settings: of `h5py.File`.

    Raises:
        InputError: it is cut short, or no such file.
    """
    try:
        return h5py.File(path, "r", **settings)
    except Exception as error:  # likewise
        if kind := kind_of_file(path, HDF5):
            raise InputError(f"{path} {kind}") from None
        fault = "is cut short; copy it again" if "truncated file" in str(error) else "is not an HDF5 file"
        raise InputError(f"{path} {fault}: {error}") from None


def datasets_in(
    group: h5py.Group, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield all datasets in a group and in those within it, with their paths from it, each once, in order of names.

    The library's own walk goes round in circles for ever in some damaged files.
    """
    seen = set() if seen is None else seen
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        found = group[name]
        place = h5py.h5o.get_info(found.id).addr
        if place in seen:
            continue
        seen.add(place)
        if isinstance(found, h5py.Dataset):
            yield prefix + name, found
        elif isinstance(found, h5py.Group):
            yield from datasets_in(found, f"{prefix}{name}/", seen)


def dataset_of(file: h5py.File, name: str) -> h5py.Dataset | None:
    """Return a file's dataset of this name, None if there is no such dataset.

    Raises:
        InputError: it is not stored in this file, or not as much of it as it claims.
    """
    found = file.get(name)
    return check_dataset(file, found) if isinstance(found, h5py.Dataset) else None


def check_dataset(file: h5py.File, dataset: h5py.Dataset) -> h5py.Dataset:
    """Return a dataset of `file` that is all there.

    Raises:
        InputError: it is not stored in this file, or not as much of it as it claims.
    """
    path = Path(file.filename)
    where = f"{path}: {dataset.name!r}"
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        raise InputError(f"{where} keeps its numbers in another file; copy them into one")
    if dataset.shape is None:
        raise InputError(f"{where} is empty")
    needed, stored = math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    is_packed = dataset.id.get_create_plist().get_nfilters() > 0
    if needed > stored * (MOST_PACKED if is_packed else 1) or stored > path.stat().st_size:
        raise InputError(
            f"{where} is cut short, or was never filled: shape {dataset.shape} of {dataset.dtype} takes {needed} "
            f"bytes, the file has {stored}; copy it again"
        )
    if dataset.chunks:
        _check_chunks(dataset, path.stat().st_size, where)
    return dataset


def _check_chunks(dataset: h5py.Dataset, size: int, where: str) -> None:
    """Check how a dataset is packed, and where its chunks are: the library ends the process over some that are not."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
    if unknown := [number for number in filters if number not in FILTERS]:
        raise InputError(
            f"{where} is packed by filter {unknown[0]}; known: {', '.join(FILTERS.values())}; pack it anew"
        )
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk > LARGEST_CHUNK:
        raise InputError(f"{where} is stored in chunks of {chunk} bytes; {LARGEST_CHUNK} at most can be read")
    damaged: list[tuple[int, ...]] = []

    def look(found: Any) -> None:
        is_whole = SMALLEST_PACKED <= found.size <= 2 * chunk + SMALLEST_PACKED if filters else found.size == chunk
        if not is_whole or found.byte_offset is None or found.byte_offset + found.size > size:
            damaged.append(found.chunk_offset)

    dataset.id.chunk_iter(look)
    if damaged:
        raise InputError(f"{where} is damaged: {len(damaged)} chunks, the first at {damaged[0]}; copy it again")
