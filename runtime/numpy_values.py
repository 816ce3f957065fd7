"""Numbers and arrays of numpy in a file of torch.save, read without any function of numpy's that unpickles.

Public programs store `best_rsum` as numpy's float, or a vector of numpy beside the networks. What their pickles ask for
by numpy's names is answered by the classes and functions here: a number comes back as Python's, an array as `Array`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
"""Types of numbers that are read: truth values, whole numbers and floats."""


class Kind:
    """Takes the place of numpy.dtype.

    Raises:
        ValueError: a type that is no plain number, such as objects and records.
    """

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if code not in KINDS:
            raise ValueError("it holds an array of numpy that is not of plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Take the order of the bytes; fields and all else that makes a type something other than a number is refused.

        Raises:
            ValueError: it is there.
        """
        version, order, *others = state
        if (version, *others) != (3, None, None, None, -1, -1, 0) or order not in ("<", ">", "|", "="):
            raise ValueError("it holds an array of numpy that is not of plain numbers")
        self.dtype = self.dtype.newbyteorder(order)


class Array:
    """Takes the place of numpy.ndarray.

    Attributes:
        values: the numbers, read only.
    """

    def __init__(self) -> None:
        self.values = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        """Take shape, type and numbers.

        Raises:
            ValueError: they do not fit each other.
        """
        _, shape, kind, is_fortran, data = state
        self.values = _numbers(kind, data, shape).reshape(shape, order="F" if is_fortran else "C")


def _numbers(kind: Any, data: Any, shape: tuple[int, ...]) -> np.ndarray:
    sizes_fit = all(type(n) is int and n >= 0 for n in shape)
    if not isinstance(kind, Kind) or not isinstance(data, bytes) or not sizes_fit:
        raise ValueError("it holds an array of numpy that is made of something other than sizes and bytes")
    if len(data) != math.prod(shape) * kind.dtype.itemsize:
        raise ValueError(f"it holds an array of numpy of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, kind.dtype)


def number(kind: Any, data: Any) -> int | float | bool:
    """Take the place of what makes a number of numpy; return Python's.

    Raises:
        ValueError: type and bytes do not fit.
    """
    return _numbers(kind, data, ()).item()


def empty_array(array: Any, shape: Any, code: Any) -> Array:
    """Take the place of what makes an array before its numbers are known."""
    if array is not Array or shape != (0,):
        raise ValueError("it holds an array of numpy that is made in a way that numpy does not")
    return Array()


def no_bytes() -> bytes:
    """Take the place of `bytes`, which an array without numbers calls."""
    return b""


STAND_INS: dict[str, Any] = {
    "numpy.dtype": Kind,
    "numpy.ndarray": Array,
    "numpy.core.multiarray.scalar": number,
    "numpy._core.multiarray.scalar": number,
    "numpy.core.multiarray._reconstruct": empty_array,
    "numpy._core.multiarray._reconstruct": empty_array,
    "builtins.bytes": no_bytes,
    "__builtin__.bytes": no_bytes,
}
"""numpy's names, those before its version 2 too -> what answers."""
