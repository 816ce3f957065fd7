"""A folder for every run: NAME, or NAME-2, NAME-3, ... where earlier runs of that name are kept."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from runtime.errors import InputError


def numbered(parent: Path, name: str) -> Iterator[Path]:
    """Yield the folders that runs of this name get, in order; the numbers do not end."""
    yield parent / name
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
