"""npy files that somebody else wrote: the header is read, and compared with the file, before anything is allocated.

numpy believes a header: one that claims 10^15 rows makes it ask for their memory first and look into the file later.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from runtime.errors import InputError
from runtime.file_kinds import HEAD_BYTES, NPY, foreign_kind

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


def read_array(file: BinaryIO, size: int) -> np.ndarray:
    """Return the array in an npy file of `size` bytes.

    Raises:
        ValueError: what `read_header` raises.
    """
    header = read_header(file, size)
    data = file.read(header.count * header.dtype.itemsize)
    if len(data) != header.count * header.dtype.itemsize:
        raise ValueError("it ends before its last number")
    return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.is_fortran else "C")
