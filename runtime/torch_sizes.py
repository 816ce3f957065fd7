"""Sizes that a file of torch.save claims, compared with the file before anything is allocated.

The pickle in such a file says how many numbers each storage has and which of them make a tensor; torch allocates what
it says. Here the pickle is read with nothing behind its names: storages and tensors become the sizes they claim, all
else an empty object. Only a pickle whose names were found harmless may come here (runtime/torch_file.py).
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

ITEM_BYTES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}
ITEM_BYTES["Bool"] = 1


@dataclass(frozen=True)
class Storage:
    """What a pickle says of a storage: its name in the file, its numbers, and the bytes of each."""

    key: str
    numbers: int
    item_bytes: int

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return self.numbers * self.item_bytes


@dataclass(frozen=True)
class _Kind:
    """Takes the place of a storage's class."""

    name: str


class _Nothing:
    """Takes the place of a class, and of what it makes: takes anything, and does nothing."""

    def __init__(self, *values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    needs_gradient: Any = False,
    hooks: Any = None,
    more: Any = None,
) -> _Nothing:
    """Take the place of what makes a tensor."""
    if hooks or more:
        raise ValueError("a tensor has hooks, or marks that no checkpoint has")
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor is made of something other than a storage and sizes")
    numbers = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if numbers > storage.numbers or (numbers and last >= storage.numbers):
        raise ValueError(f"a tensor of shape {tuple(shape)} is made of {storage.numbers} numbers")
    return _Nothing()


def _parameter(tensor: Any, needs_gradient: Any, hooks: Any) -> _Nothing:
    """Take the place of what makes a parameter of a tensor."""
    if hooks or not isinstance(tensor, _Nothing):
        raise ValueError("a parameter has hooks, or is made of something other than a tensor")
    return tensor


class _Sizes(pickle.Unpickler):
    """Reads one pickle of `size` bytes, and gathers the storages that it asks for."""

    def __init__(self, content: BinaryIO, size: int) -> None:
        super().__init__(content, encoding="utf-8")
        self.storages: dict[str, Storage] = {}
        self._bytes_left = size

    def find_class(self, module: str, name: str) -> Any:
        """Return what takes the place of a class or function."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if module == "torch._utils":
            return _parameter if name == "_rebuild_parameter" else _tensor
        return _Kind(name) if name.endswith("Storage") else _Nothing

    def _encode(self, text: Any, encoding: Any) -> _Nothing:
        """Take the place of what makes bytes of a text; each text must stand in the pickle as often as it is used."""
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("it encodes a text in a way that pickle does not")
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            raise ValueError("it makes more bytes than it has")
        return _Nothing()

    def persistent_load(self, saved: Any) -> Storage:
        """Return the sizes of a storage."""
        word, kind, key, _, numbers = saved[:5]
        if word != "storage" or not isinstance(kind, _Kind) or type(numbers) is not int or numbers < 0:
            raise ValueError("it refers to something other than a storage")
        found = Storage(str(key), numbers, ITEM_BYTES[kind.name.removesuffix("Storage")])
        if self.storages.setdefault(found.key, found).size != found.size:
            raise ValueError(f"its storage {key} has two sizes")
        return found


def _storages(content: BinaryIO) -> list[Storage]:
    """Return the storages that the next pickle asks for; leaves `content` behind it.

    It is disassembled first: Python's reader makes room for whatever number a pickle gives its parts to remember them.
    """
    start = content.tell()
    for count, (code, argument, _) in enumerate(pickletools.genops(content)):  # type: ignore[arg-type]
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise ValueError("its parts are numbered in a way that pickle does not")
    size = content.tell() - start
    content.seek(start)
    reader = _Sizes(content, size)
    reader.load()
    return list(reader.storages.values())


def check_archive(archive: zipfile.ZipFile, pickle_name: str, size: int) -> None:
    """Check a file of torch 1.6 or later: its members are stored as they are, and storages have the sizes claimed.

    Args:
        archive: the file.
        pickle_name: its member that is a pickle.
        size: bytes of the file.

    Raises:
        ValueError: they are not, in words.
        Exception: any, where the pickle is damaged.
    """
    members: Mapping[str, zipfile.ZipInfo] = {info.filename: info for info in archive.infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise ValueError("it is packed, which torch.save never does")
    total = sum(info.file_size for info in members.values())
    if total > size:
        raise ValueError(f"its parts claim {total} bytes, it has {size}")
    folder = pickle_name.removesuffix("data.pkl")
    for storage in _storages(io.BytesIO(archive.read(pickle_name))):
        member = members.get(f"{folder}data/{storage.key}")
        found = 0 if member is None else member.file_size
        if found != storage.size:
            raise ValueError(f"its storage {storage.key} claims {storage.size} bytes, the file has {found} of it")


def check_old_file(content: BinaryIO, leading: int, size: int) -> None:
    """Check a file of torch before 1.6: `leading` small pickles, the one with the content, then the numbers.

    Args:
        content: the file, at its beginning.
        leading: pickles before the content's.
        size: bytes of the file.

    Raises:
        ValueError: the storages claim more than the file has.
        Exception: any, where a pickle is damaged.
    """
    for _ in range(leading):
        _storages(content)
    claimed = sum(storage.size for storage in _storages(content))
    if claimed > size:
        raise ValueError(f"its storages claim {claimed} bytes, it has {size}")
