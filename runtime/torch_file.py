"""Files that torch.save wrote, read without running anything that is in them.

Such a file is a pickle with tensors beside it: a zip archive, or, before torch 1.6, one pickle after the other. A
pickle may ask for any function of the machine and have it called. So it is disassembled first, which runs nothing: if
it asks for more than tensors, ordered dicts, `argparse.Namespace` (the options in the checkpoints of NCR, BiCro, MGCS
and SGRAF) and numbers of numpy (runtime/numpy_values.py), it is refused by name. What passes is read by torch's
restricted unpickler, which has its own list.
"""

from __future__ import annotations

import contextlib
import io
import pickletools
import re
import warnings
import zipfile
from argparse import Namespace  # as a stored type; no command line is read here
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.serialization import safe_globals

from runtime.errors import InputError
from runtime.file_kinds import HEAD_BYTES, head_of, not_fetched
from runtime.numpy_values import STAND_INS
from runtime.plain_values import check_plain
from runtime.torch_sizes import check_archive, check_old_file

StoredOptions = Namespace
"""What the lineage's programs store their options in."""

ACCEPTED = (
    "argparse.Namespace",
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.nn.parameter.Parameter",
    "_codecs.encode",
    *STAND_INS,
)
_STORAGE = re.compile(r"torch\.(cuda\.)?(Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage")

LEADING_PICKLES = 5
"""A file of the older format starts with so many: magic number, protocol, system, content, names of storages."""

PICKLES_BEFORE_CONTENT = 3

ARCHIVE = b"PK\x03\x04"
"""First bytes of a file of torch 1.6 or later."""


def is_accepted(name: str) -> bool:
    """Tell whether a function or class, by its full name, may be asked for."""
    return name in ACCEPTED or _STORAGE.fullmatch(name) is not None


def _names_in_pickle(content: BinaryIO) -> Iterator[str]:
    """Yield the full names of what one pickle asks for; leaves `content` behind its end.

    Raises:
        Exception: any, where the bytes are no pickle.
    """
    strings: list[str] = []
    for code, argument, _ in pickletools.genops(content):  # type: ignore[arg-type]
        if code.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif code.name == "STACK_GLOBAL":  # torch refuses it whatever it asks for; the name is for people
            yield ".".join(strings[-2:])
        elif code.name in ("EXT1", "EXT2", "EXT4"):
            yield f"extension {argument}"
        elif isinstance(argument, str):
            strings.append(argument)


def _names_in_old_file(content: BinaryIO) -> set[str]:
    names: set[str] = set()
    for number in range(LEADING_PICKLES):
        try:
            names |= set(_names_in_pickle(content))
        except Exception:
            if number == 0:
                raise
            break  # a single pickle, or one cut short: the rest is not for us to judge
    return names


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[BinaryIO]:
    with open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        yield file


@contextlib.contextmanager
def _archive_in(file: BinaryIO) -> Iterator[zipfile.ZipFile | None]:
    """Give the archive that a file is, None for the older format; told apart as torch does, by the first bytes."""
    is_archive = file.read(len(ARCHIVE)) == ARCHIVE
    file.seek(0)
    if not is_archive:
        yield None
        return
    with zipfile.ZipFile(file) as archive:
        if archive.comment:
            raise ValueError("it has a comment, which torch.save never writes")
        yield archive


def _pickle_of(archive: zipfile.ZipFile) -> str:
    (member,) = (member for member in archive.infolist() if member.filename.endswith("/data.pkl"))
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is packed, which torch.save never does")  # and unpacked it may be of any size
    return member.filename


def requested_names(source: Path | bytes) -> list[str] | None:
    """Return the full names of all functions and classes that loading a file would ask for, sorted.

    Nothing is loaded. None: the file is not one that torch.save wrote.
    """
    try:
        with _opened(source) as file, _archive_in(file) as archive:
            if archive is None:
                return sorted(_names_in_old_file(file))
            with archive.open(_pickle_of(archive)) as content:
                return sorted(set(_names_in_pickle(content)))  # type: ignore[arg-type]
    except Exception:  # the bytes of another file can lead a reader into any exception
        return None


def _check_sizes(source: Path | bytes) -> None:
    """Compare what a file claims with what it has.

    Raises:
        ValueError: it claims more, in words.
        Exception: any other, where the file is damaged.
    """
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    with _opened(source) as file, _archive_in(file) as archive:
        if archive is not None:
            check_archive(archive, _pickle_of(archive), size)
        else:
            check_old_file(file, PICKLES_BEFORE_CONTENT, size)


def read_torch_file(source: Path | bytes, name: str | None = None) -> Any:
    """Read what torch.save wrote onto the CPU, without running anything in it.

    Args:
        source: the file, or its content.
        name: what messages call it; the path by default.

    Raises:
        InputError: another file, one that asks for functions or classes that are not accepted, or one that claims more
            than it has.
    """
    named = name or str(source)
    names = requested_names(source)
    if names is None:
        kind = not_fetched(head_of(source) if isinstance(source, Path) else source[:HEAD_BYTES])
        told = kind or "is not a checkpoint (or only a part of one): it is no file that torch.save wrote"
        raise InputError(f"{named} {told}")
    refused = [name for name in names if not is_accepted(name)]
    if refused:
        raise InputError(
            f"{named} is refused: loading it would call {', '.join(refused)}, which is no part of a checkpoint; "
            f"nothing of it was run or read (accepted beside tensors, plain values and numbers of numpy: {ACCEPTED[0]})"
        )
    stand_ins = [(answer, name) for name, answer in STAND_INS.items()]
    try:
        _check_sizes(source)
        with warnings.catch_warnings(), safe_globals([StoredOptions, *stand_ins]):
            warnings.simplefilter("ignore")
            readable = source if isinstance(source, Path) else io.BytesIO(source)
            content = torch.load(readable, map_location="cpu", weights_only=True)
        check_plain(content)
        return content
    except ValueError as error:
        raise InputError(f"{named} is not a checkpoint that can be read: {error}; copy it again") from None
    except Exception:  # likewise
        raise InputError(
            f"{named} is not a checkpoint that can be read: it is damaged, cut short, or pickled in another way than "
            "torch.save does"
        ) from None
