"""Files that torch.save wrote, read without running anything that is in them.

Such a file is a pickle with tensors beside it: a zip archive, or, before torch 1.6, one pickle after the other. A
pickle may ask for any function of the machine and have it called, and torch allocates what it claims. So it is first
read with nothing behind its names: that tells which they are and which sizes are claimed. A file that asks for more
than tensors, ordered dicts, `argparse.Namespace` (the options in the checkpoints of NCR, BiCro, MGCS and SGRAF) and
numbers of numpy is refused by name, one that claims more than it has in words. What passes is read by torch's
restricted unpickler, which has its own list.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
import zipfile
from argparse import Namespace  # as a stored type; no command line is read here
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import safe_globals

from runtime.errors import InputError
from runtime.files import HEAD_BYTES, ZIP, check_plain, head_of, not_fetched

StoredOptions = Namespace
"""What the lineage's programs store their options in."""

OLD_PICKLES = 5
"""A file of the older format starts with so many: magic number, protocol, system, content, names of storages."""

ITEM_BYTES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}
ITEM_BYTES["Bool"] = 1
_STORAGE = re.compile(rf"torch\.(cuda\.)?({'|'.join(ITEM_BYTES)})Storage")

DAMAGED = "it is no file that torch.save wrote, or damaged, or cut short"


def as_bytes(content: Any) -> memoryview:
    """Return what torch.save writes for tensors and plain values.

    In memory first: torch's own writer says nothing useful of a full disk, and not always that it was one.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


# -- numpy's numbers, read without any function of numpy's that unpickles ---------------------------------------------

NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class Kind:
    """Takes the place of numpy.dtype; only plain numbers are read: no objects, no records, no texts."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if code not in NUMBERS:
            raise ValueError("it holds an array of numpy that is not of plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Take the order of the bytes, and nothing else."""
        version, order, *others = state
        if (version, *others) != (3, None, None, None, -1, -1, 0) or order not in ("<", ">", "|", "="):
            raise ValueError("it holds an array of numpy that is not of plain numbers")
        self.dtype = self.dtype.newbyteorder(order)


class Array:
    """Takes the place of numpy.ndarray; the suite needs none of those in a checkpoint, so that nothing is kept."""

    def __setstate__(self, state: Any) -> None:
        pass


def _number(kind: Any, data: Any) -> int | float | bool:
    """Take the place of what makes a number of numpy; return Python's."""
    if not isinstance(kind, Kind) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise ValueError("it holds a number of numpy whose type and bytes do not fit each other")
    return np.frombuffer(data, kind.dtype)[0].item()


def _array(kind: Any, shape: Any, code: Any) -> Array:
    """Take the place of what makes an array before its numbers are known."""
    if kind is not Array or shape != (0,):
        raise ValueError("it holds an array of numpy that is made in a way that numpy does not")
    return Array()


def _no_bytes() -> bytes:
    """Take the place of `bytes`, which an array without numbers calls."""
    return b""


STAND_INS: dict[str, Any] = {
    **{"numpy.dtype": Kind, "numpy.ndarray": Array, "builtins.bytes": _no_bytes, "__builtin__.bytes": _no_bytes},
    **{f"numpy.{core}.multiarray.scalar": _number for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
}
"""numpy's names, those before its version 2 too -> what answers."""


# -- the first reading ------------------------------------------------------------------------------------------------


class _Nothing:
    """Takes the place of a class or function, and of what it makes: takes anything, and does nothing."""

    def __init__(self, *values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class _Numbers:
    """Takes the place of a storage's class (`count` 0), or of a storage of so many numbers."""

    item_bytes: int
    count: int = 0


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, needs: Any = 0, hooks: Any = 0, more: Any = 0) -> Any:
    """Take the place of what makes a tensor."""
    if hooks or more:
        raise ValueError("a tensor has hooks, or marks that no checkpoint has")
    if not isinstance(storage, _Numbers) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor is made of something other than a storage and sizes")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if count > storage.count or (count and last >= storage.count):
        raise ValueError(f"a tensor of shape {tuple(shape)} is made of {storage.count} numbers")
    return _Nothing()


def _parameter(tensor: Any, needs: Any, hooks: Any) -> Any:
    """Take the place of what makes a parameter of a tensor."""
    if hooks or not isinstance(tensor, _Nothing):
        raise ValueError("a parameter has hooks, or is made of something other than a tensor")
    return tensor


FIRST: dict[str, Any] = {
    **{"collections.OrderedDict": OrderedDict, "torch._utils._rebuild_parameter": _parameter},
    **{"torch._utils._rebuild_tensor": _tensor, "torch._utils._rebuild_tensor_v2": _tensor},
    **dict.fromkeys(("argparse.Namespace", "torch.Size", "torch.device", "torch.nn.parameter.Parameter"), _Nothing),
    **dict.fromkeys(("_codecs.encode", *STAND_INS), _Nothing),
}
"""All names that may be asked for, but for storages -> what answers in the first reading."""


def is_accepted(name: str) -> bool:
    """Tell whether a function or class, by its full name, may be asked for."""
    return name in FIRST or _STORAGE.fullmatch(name) is not None


class _Reader(pickle._Unpickler):
    """Reads one pickle of at most `size` bytes; Python's own class, since the one in C makes room for what is claimed.

    Attributes:
        names: full names of the functions and classes that it asks for.
        storages: bytes that each storage claims, by its name.
    """

    def __init__(self, content: Any, size: int, names: set[str]) -> None:
        super().__init__(content, encoding="utf-8")
        self.names, self.storages, self._bytes_left = names, dict[str, int](), size

    def load(self) -> None:
        """Read the pickle."""
        before = list(self.names)
        try:
            super().load()
        except EOFError:  # it is cut short, perhaps within a name
            self.names.intersection_update(before)
            raise

    def find_class(self, module: str, name: str) -> Any:
        """Return what takes the place of a class or function."""
        full = f"{module}.{name}"
        self.names.add(full)
        if storage := _STORAGE.fullmatch(full):
            return _Numbers(ITEM_BYTES[storage[2]])
        return self._encode if full == "_codecs.encode" else FIRST.get(full, _Nothing)

    def _encode(self, text: Any, encoding: Any) -> _Nothing:
        """Take the place of what makes bytes of a text; each text must stand in the pickle as often as it is used."""
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("it encodes a text in a way that pickle does not")
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            raise ValueError("it makes more bytes than it has")
        return _Nothing()

    def persistent_load(self, saved: Any) -> _Numbers:
        """Return the sizes of a storage."""
        word, kind, key, _, count = saved[:5]
        if word != "storage" or not isinstance(kind, _Numbers) or type(count) is not int or count < 0:
            raise ValueError("it refers to something other than a storage")
        if self.storages.setdefault(str(key), count * kind.item_bytes) != count * kind.item_bytes:
            raise ValueError(f"its storage {key} has two sizes")
        return _Numbers(kind.item_bytes, count)


def _examine_archive(archive: zipfile.ZipFile, size: int, names: set[str]) -> None:
    """Check a file of torch 1.6 or later: its members are stored as they are, and storages have the sizes claimed."""
    members = {info.filename: info for info in archive.infolist()}
    if archive.comment or len(members) < len(archive.infolist()):
        raise ValueError("it has a comment, or two parts of one name, which torch.save never writes")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise ValueError("it is packed, which torch.save never does")  # and unpacked it may be of any size
    if (total := sum(info.file_size for info in members.values())) > size:
        raise ValueError(f"its parts claim {total} bytes, it has {size}")
    place, *others = (name for name in members if name.endswith("/data.pkl"))
    if others:
        raise ValueError("it has more than one pickle")
    content = archive.read(place)
    reader = _Reader(io.BytesIO(content), len(content), names)
    reader.load()
    for key, claimed in reader.storages.items():
        member = members.get(f"{place.removesuffix('data.pkl')}data/{key}")
        found = 0 if member is None else member.file_size
        if found != claimed:
            raise ValueError(f"its storage {key} claims {claimed} bytes, the file has {found} of it")


def _examine_old(content: Any, size: int, names: set[str]) -> None:
    """Check a file of torch before 1.6: several pickles, then the numbers of the storages."""
    for _ in range(OLD_PICKLES):
        reader = _Reader(content, size, names)
        reader.load()
        if (claimed := sum(reader.storages.values())) > size:
            raise ValueError(f"its storages claim {claimed} bytes, it has {size}")


@dataclass
class Examined:
    """What a file asks for and claims.

    Attributes:
        names: full names of all functions and classes that loading it would ask for.
        fault: why it cannot be read, in words; None: it can.
    """

    names: set[str] = field(default_factory=set)
    fault: str | None = None


def examine(source: Path | bytes) -> Examined:
    """Look into a file that torch.save wrote, or that should be one; nothing of it is run or allocated."""
    found = Examined()
    try:
        with open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            is_archive, size = file.read(len(ZIP)) == ZIP, file.seek(0, io.SEEK_END)  # told apart as torch does
            file.seek(0)
            if is_archive:
                with zipfile.ZipFile(file) as archive:
                    _examine_archive(archive, size, found.names)
            else:
                _examine_old(file, size, found.names)
    except ValueError as error:
        found.fault = str(error)
    except Exception:  # the bytes of another file can lead a reader into any exception
        found.fault = DAMAGED
    return found


def read_torch_file(source: Path | bytes, name: str | None = None) -> Any:
    """Read what torch.save wrote onto the CPU, without running anything in it.

    Args:
        source: the file, or its content.
        name: what messages call it; the path by default.

    Raises:
        InputError: another file, one that asks for functions or classes that are not accepted, or one that claims more
            than it has.
    """
    named, found = name or str(source), examine(source)
    if refused := sorted(name for name in found.names if not is_accepted(name)):
        raise InputError(
            f"{named} is refused: loading it would call {', '.join(refused)}, which is no part of a checkpoint; "
            f"nothing of it was run or read (accepted beside tensors, plain values "
            "and numbers of numpy: argparse.Namespace)"
        )
    if kind := not_fetched(head_of(source) if isinstance(source, Path) else source[:HEAD_BYTES]):
        raise InputError(f"{named} {kind}")
    try:
        if found.fault is not None:
            raise ValueError(found.fault)
        stand_ins = [(answer, name) for name, answer in STAND_INS.items()]
        with warnings.catch_warnings(), safe_globals([StoredOptions, *stand_ins]):
            warnings.simplefilter("ignore")
            readable = source if isinstance(source, Path) else io.BytesIO(source)
            content = torch.load(readable, map_location="cpu", weights_only=True)
        check_plain(content)
        return content
    except ValueError as error:
        fault = str(error)
    except Exception:  # likewise
        fault = DAMAGED
    raise InputError(f"{named} is not a checkpoint that can be read: {fault}; copy it again")
