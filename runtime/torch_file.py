"""Files that torch.save wrote, read without running anything that is in them.

Such a file is a pickle with tensors beside it: a zip archive, or, before torch 1.6, one pickle after the other. A
pickle may ask for any function of the machine and have it called. So it is disassembled first, which runs nothing: if
it asks for more than tensors, ordered dicts and `argparse.Namespace` (the options in the checkpoints of NCR, BiCro,
MGCS and SGRAF), it is refused by name. What passes is read by torch's restricted unpickler, which has its own list.
"""

from __future__ import annotations

import mmap
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
)
_STORAGE = re.compile(r"torch\.(cuda\.)?(Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage")

LEADING_PICKLES = 5
"""A file of the older format starts with so many: magic number, protocol, system, content, names of storages."""


def is_accepted(name: str) -> bool:
    """Tell whether a function or class, by its full name, may be asked for."""
    return name in ACCEPTED or _STORAGE.fullmatch(name) is not None


def _names_in_pickle(content: BinaryIO | mmap.mmap) -> Iterator[str]:
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


def _names_in_old_file(content: mmap.mmap) -> set[str]:
    names: set[str] = set()
    for number in range(LEADING_PICKLES):
        try:
            names |= set(_names_in_pickle(content))
        except Exception:
            if number == 0:
                raise
            break  # a single pickle, or one cut short: the rest is not for us to judge
    return names


def requested_names(path: Path) -> list[str] | None:
    """Return the full names of all functions and classes that loading the file would ask for, sorted.

    Nothing is loaded. None: the file is not one that torch.save wrote.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                (pickle,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                with archive.open(pickle) as content:
                    return sorted(set(_names_in_pickle(content)))  # type: ignore[arg-type]
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return sorted(_names_in_old_file(content))
    except Exception:  # the bytes of another file can lead a reader into any exception
        return None


def read_torch_file(path: Path) -> Any:
    """Read what torch.save wrote onto the CPU, without running anything in it.

    Raises:
        InputError: another file, or one that asks for functions or classes that are not accepted.
    """
    names = requested_names(path)
    if names is None:
        raise InputError(f"{path} is not a checkpoint (or only a part of one): it is no file that torch.save wrote")
    refused = [name for name in names if not is_accepted(name)]
    if refused:
        raise InputError(
            f"{path} is refused: loading it would call {', '.join(refused)}, which is no part of a checkpoint; nothing "
            f"of it was run or read (accepted beside tensors and plain values: {ACCEPTED[0]})"
        )
    try:
        with warnings.catch_warnings(), safe_globals([StoredOptions]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # likewise
        raise InputError(
            f"{path} is not a checkpoint that can be read: it is damaged, cut short, or pickled in another way than "
            "torch.save does"
        ) from None
