"""A folder for every run: NAME, or NAME-2, NAME-3, ... where earlier runs of that name are kept."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from runtime.errors import InputError

LONGEST = 240
"""Bytes of a name, so that there is room for a number behind it."""


def check_name(name: str) -> str:
    """Return a folder's name that leads nowhere else.

    Raises:
        InputError: it holds a path, or characters that are not to be seen, or is too long.
    """
    if name in ("", ".", "..") or not name.isprintable() or {"/", "\\"} & set(name) or len(name.encode()) > LONGEST:
        raise InputError(
            f"{name!r} cannot name a run's folder: parts of it, such as --id, hold a path, or what is not to be seen, "
            f"or it is longer than {LONGEST} bytes; the folder's place goes to --output_dir"
        )
    return name


def numbered(parent: Path, name: str) -> Iterator[Path]:
    """Yield the folders that runs of this name get, in order; the numbers do not end.

    Raises:
        InputError: no folder in `parent` can have this name.
    """
    yield parent / check_name(name)
    yield from (parent / f"{name}-{number}" for number in count(2))


def claim(parent: Path, name: str) -> Path:
    """Make the first of them that is not there yet, and return it.

    Raises:
        InputError: it cannot be made.
    """
    for folder in numbered(parent, name):
        try:
            folder.mkdir(parents=True)
            return folder
        except OSError as error:
            if not (isinstance(error, FileExistsError) and folder.is_dir()):
                raise InputError(
                    f"--output_dir {parent} cannot be written: {error.strerror}; name another folder"
                ) from None
    raise AssertionError("unreachable: numbers do not end")
