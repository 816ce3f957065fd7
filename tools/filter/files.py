"""Arrays from `.npy`, HDF5, safetensors and text files, read in blocks of rows.

A file is named `FILE` or `FILE::NAME`, where NAME is a dataset (HDF5), a tensor (safetensors) or a column (CSV with a
header). Embeddings are (rows, dimensions), float16, float32 or float64 (safetensors: bfloat16 too), larger than memory
if need be; similarities and truths are vectors and are read whole.
"""

from __future__ import annotations

import csv
import itertools
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from data_utils.arrays import check_dataset, datasets_in, hdf5_faults, open_hdf5, open_npy
from runtime.errors import InputError
from runtime.files import head_of, not_fetched

HDF5_CACHE_BYTES = 64 * 2**20
"""Compressed HDF5 chunks of up to so many bytes are unpacked once, however few rows one read takes of them."""
KINDS = {**dict.fromkeys(("F16", "BF16", "F32", "F64"), "f"), "BOOL": "b", "U8": "u"}
KINDS |= dict.fromkeys(("I8", "I16", "I32", "I64"), "i")
"""Types of safetensors and their numpy kinds."""


@dataclass(frozen=True)
class Stored:
    """An array in a file, of which rows are read when they are wanted.

    Attributes:
        name: how messages name it.
        shape: as in the file.
        kind: numpy's kind of its numbers: `f`, `i`, `u` or `b`.
        fetch: rows from start up to stop, as stored.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    fetch: Callable[[int, int], np.ndarray]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return consecutive rows in memory, in this machine's byte order.

        Raises:
            InputError: the file cannot be read there; a NaN, an infinity or, in a matrix, a row of zeros (names it).
        """
        start, stop, _ = rows.indices(len(self))
        try:
            block = self.fetch(start, stop)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{self.name} cannot be read at rows {start} to {stop - 1}: {error}") from None
        block = np.array(block, dtype=block.dtype.newbyteorder("="))
        if self.kind == "f" and block.ndim == 2:
            size = np.abs(block).max(axis=1, initial=0)
            if not np.isfinite(size).all():
                raise InputError(f"{self.name} row {start + _first(~np.isfinite(size))} holds NaN or infinity; mend it")
            if not size.all():
                row = start + _first(size == 0)
                raise InputError(f"{self.name} row {row} is all zeros and has no direction; drop that pair or embed it")
        return block


def _first(is_bad: np.ndarray) -> int:
    return int(np.flatnonzero(is_bad)[0])


def split_name(spec: str) -> tuple[Path, str | None]:
    """Return the path in `FILE` or `FILE::NAME`, and the name if there is one."""
    path, separator, name = spec.partition("::")
    return Path(path), name if separator else None


def _choose(spec: str, found: dict[str, Stored], ndim: int, what: str) -> Stored:
    """Return the array that was named, or the only one that fits.

    Raises:
        InputError: no such name, or no name given and none or several fit.
    """
    path, name = split_name(spec)
    listed = ", ".join(f"{key} {stored.shape}" for key, stored in found.items()) or "none"
    if name is not None:
        if (key := name if name in found else name.strip("/")) not in found:
            raise InputError(f"{spec} is not there; {what}s in {path}: {listed}")
        return found[key]
    fitting = [stored for stored in found.values() if stored.kind == "f" and len(stored.shape) == ndim]
    if len(fitting) != 1:
        why = f"has {len(fitting) or 'no'} {what}{'s' if fitting else ''} of {ndim} dimension{'s' * (ndim > 1)}"
        raise InputError(f"{spec} {why}; name one as {spec}::{what.upper()} of: {listed}")
    return fitting[0]


def _open_npy(spec: str, ndim: int) -> Stored:
    path, name = split_name(spec)
    if name is not None:
        raise InputError(f"{spec}: an .npy file holds one array, without a name; give {path}")
    whole = open_npy(path)
    if not isinstance(whole, np.memmap) or not whole.flags.c_contiguous or whole.ndim == 0:
        return Stored(spec, whole.shape, whole.dtype.kind, lambda a, b: whole[a:b])
    dtype, shape, offset, row = whole.dtype, whole.shape[1:], whole.offset, int(np.prod(whole.shape[1:]))

    def fetch(start: int, stop: int) -> np.ndarray:
        # unlike a map's, pages read this way do not count as memory of this process
        place, count = offset + start * row * dtype.itemsize, (stop - start) * row
        numbers = np.fromfile(path, dtype, count, offset=place)
        if len(numbers) != count:
            raise OSError("the file ends before its last row")
        return numbers.reshape(-1, *shape)

    return Stored(spec, whole.shape, dtype.kind, fetch)


def _open_hdf5(spec: str, ndim: int) -> Stored:
    path, _ = split_name(spec)
    file = open_hdf5(path, rdcc_nbytes=HDF5_CACHE_BYTES)

    def fetch(item: h5py.Dataset, start: int, stop: int) -> np.ndarray:
        with hdf5_faults(path):
            return item[start:stop]

    with hdf5_faults(path):
        found = {
            key: Stored(f"{path}::{key}", item.shape, item.dtype.kind, partial(fetch, item))
            for key, item in datasets_in(file)
            if item.shape is not None
        }
        chosen = _choose(spec, found, ndim, "dataset")
        check_dataset(file, file[chosen.name.removeprefix(f"{path}::")])
    return chosen


def _open_safetensors(spec: str, ndim: int) -> Stored:
    path, _ = split_name(spec)

    def fetch(tensor: Any, start: int, stop: int) -> np.ndarray:
        block: torch.Tensor = tensor[start:stop]
        return (block.float() if block.dtype == torch.bfloat16 else block).numpy()

    try:
        file = safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        told = not_fetched(head_of(path)) or f"is not a safetensors file: {error}"
        raise InputError(f"{path} {told}") from None
    found = {}
    for key in file.keys():  # noqa: SIM118
        tensor = file.get_slice(key)
        kind = KINDS.get(tensor.get_dtype(), "?")
        found[key] = Stored(f"{path}::{key}", tuple(tensor.get_shape()), kind, partial(fetch, tensor))
    return _choose(spec, found, ndim, "tensor")


def _number(text: str) -> float:
    word = text.strip().lower()
    return float({"true": "1", "false": "0"}.get(word, word))


def _is_name(text: str) -> bool:
    """Tell a column's name from a number, even from a mistyped one."""
    try:
        _number(text)
    except ValueError:
        return text.strip().replace(" ", "_").replace("-", "_").isidentifier()
    return False


def _column_of(lines: Iterator[list[str]], path: Path, column: str | None) -> np.ndarray:
    first = next(lines, [])
    has_header = bool(first) and all(map(_is_name, first))
    names = [cell.strip() for cell in first] if has_header else []
    if column is not None and column not in names:
        raise InputError(f"{path} has no column {column!r}; its header names: {', '.join(names) or 'none'}")
    if column is None and len(first) > 1:
        raise InputError(f"{path} has {len(first)} columns ({', '.join(names) or 'no header'}); name one: {path}::NAME")
    place = names.index(column) if column is not None else 0
    values, blank = array("d"), None
    for number, cells in enumerate(lines if has_header else itertools.chain([first], lines), start=1 + has_header):
        if not any(cell.strip() for cell in cells):
            blank = blank or number  # blank lines at the end are no pairs, one between others is a hole
            continue
        try:
            values.append(_number(cells[place]) if blank is None else _number(""))
        except (ValueError, IndexError):
            told = "nothing" if blank else repr(",".join(cells)[:40])
            raise InputError(f"{path} line {blank or number} holds {told}, not a number; one pair a line") from None
    return np.array(values)


def _open_text(spec: str, ndim: int) -> Stored:
    """Open numbers, one a line, of the only column or of the named one of a CSV file with a header."""
    path, column = split_name(spec)
    if ndim != 1:
        raise InputError(f"{spec} is text; embeddings are read from {', '.join(BINARY)} files")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            values = _column_of(csv.reader(file), path, column)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a text file of numbers: {error}") from None
    return Stored(spec, values.shape, "f", lambda a, b: values[a:b])


BINARY: dict[str, Callable[[str, int], Stored]] = {
    ".npy": _open_npy,
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
    ".safetensors": _open_safetensors,
}
OPENERS = BINARY | {".csv": _open_text, ".txt": _open_text}
"""Suffix -> how to open such a file, given its name and the number of dimensions that is wanted."""


def _open(spec: str, ndim: int, kinds: str) -> Stored:
    path, known = split_name(spec)[0], OPENERS if ndim == 1 else BINARY
    if path.suffix.lower() not in OPENERS:
        raise InputError(f"{spec} has an unknown suffix {path.suffix!r}; known: {', '.join(known)}")
    if not path.is_file():
        raise InputError(f"no file at {path}")
    stored = OPENERS[path.suffix.lower()](spec, ndim)
    if len(stored.shape) != ndim:
        expected = "(rows, dimensions)" if ndim == 2 else "a vector, one number a pair"
        raise InputError(f"{stored.name} has shape {stored.shape}; it must be {expected}")
    if stored.kind not in kinds:
        raise InputError(f"{stored.name} holds no floating-point numbers (kind {stored.kind!r})")
    return stored


def open_embeddings(spec: str) -> Stored:
    """Open embeddings (rows, dimensions) of which blocks of rows are read later.

    Raises:
        InputError: no such file or array, an unknown format, not a matrix of floating-point numbers.
    """
    stored = _open(spec, 2, "f")
    if 0 in stored.shape:
        raise InputError(f"{stored.name} is empty: its shape is {stored.shape}")
    return stored


def read_similarities(spec: str) -> np.ndarray:
    """Read pair similarities (n,) float64, unchecked but for being numbers.

    Raises:
        InputError: as `open_embeddings`, not a vector, or text that holds something else than numbers.
    """
    stored = _open(spec, 1, "f")
    return stored[: len(stored)].astype(np.float64)


def read_truth(spec: str, num_pairs: int) -> np.ndarray:
    """Read which pairs are matched, (n,) bool, from bool or 0/1.

    Raises:
        InputError: as `read_similarities`, another count, or other values.
    """
    stored = _open(spec, 1, "biuf")
    values = stored[: len(stored)]
    if len(values) != num_pairs:
        raise InputError(f"{stored.name} tells {len(values)} pairs; there are {num_pairs}: it needs one 0 or 1 a pair")
    if (is_bad := (values != 0) & (values != 1)).any():
        bad = _first(is_bad)
        raise InputError(f"{stored.name} says {values[bad]} of pair {bad}; it must be 1 (matched) or 0 (mismatched)")
    return values == 1
