"""Mutations of HDF5 files that are HDF5 files again: other shapes, types, layouts, links, objects of the same names."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from numpy.random import Generator

SHAPES: tuple[Any, ...] = (
    *((), (0,), (3,), (10**15,), (10**15, 2, 3), (2**31, 2**31, 3), (2**40, 2**24), (3, 0, 2), (1, 1), (2, 3, 4, 5)),
    *((10**6, 36, 2048), (1, 2**20, 2**12), (5, 2, 3)),
)
TYPES: tuple[Any, ...] = (
    *("<f4", ">f4", "<f2", "<f8", "i1", "u1", "<i8", "<u8", "?", "S5", "<c8", [("a", "<f4")], "f16"),
    *(h5py.string_dtype(), h5py.vlen_dtype(np.float32), h5py.ref_dtype, h5py.enum_dtype({"a": 1})),
)
LINKS: tuple[Any, ...] = (
    *(h5py.SoftLink("/features"), h5py.SoftLink("/"), h5py.SoftLink("/nowhere"), h5py.ExternalLink("other.h5", "/x")),
    h5py.ExternalLink("../../etc/passwd", "/"),
)


def _names(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visit(found.append)
    return found


def _small(shape: tuple[int, ...], dtype: Any) -> bool:
    return int(np.prod([float(n) for n in shape])) * 64 < 2**20


def hdf5(random: Generator, content: bytes, inner: Callable[[Generator, bytes], bytes]) -> bytes:
    """Replace one object of an HDF5 file by another."""
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        names = _names(file)
        name = names[random.integers(len(names))]
        old = file[name]
        data = old[()] if isinstance(old, h5py.Dataset) else None
        del file[name]
        match int(random.integers(0, 9)):
            case 0:
                pass
            case 1:
                file.create_group(name)
            case 2:
                file[name] = LINKS[random.integers(len(LINKS))]
            case 3:
                file.create_dataset(name, dtype="f4", data=h5py.Empty("f4"))
            case 4 if data is not None:  # as it was, packed in another way
                chunks = tuple(max(1, n // 2) for n in data.shape) or None
                file.create_dataset(
                    name, data=data, chunks=chunks, compression="gzip" if chunks else None, shuffle=bool(chunks)
                )
            case 5 if data is not None:
                changed = np.array(data)
                if changed.size and changed.dtype.kind in "fiu":
                    with np.errstate(all="ignore"):
                        changed.reshape(-1)[random.integers(changed.size)] = random.choice((-1, 0, 100, 127))
                file.create_dataset(name, data=changed)
            case 6 if data is not None and data.ndim:
                file.create_dataset(name, data=data[: int(random.integers(0, len(data) + 1))])
            case _:
                shape = SHAPES[random.integers(len(SHAPES))]
                dtype = TYPES[random.integers(len(TYPES))] if random.random() < 0.6 or data is None else data.dtype
                chunks = (
                    None
                    if _small(shape, dtype) and random.random() < 0.5
                    else tuple(min(n, 8) or 1 for n in shape) or None
                )
                packed = {"compression": "gzip"} if chunks and random.random() < 0.5 else {}
                file.create_dataset(name, shape, dtype, chunks=chunks, **packed)
    return buffer.getvalue()
