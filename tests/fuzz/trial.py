"""One input of one reader: made, read, and judged."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InputError
from tests.fuzz.mutation import generator, mutate

LONGEST_LINE = 1000
"""Characters of a refusal."""


@dataclass(frozen=True)
class Prepared:
    """A reader in a folder, with what it needs beside its file.

    Attributes:
        samples: contents of valid files.
        read: reads the file at the path as the suite would, down to the last number.
    """

    samples: list[bytes]
    read: Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """A reader of files of the user's.

    Attributes:
        name: what `--readers` calls it.
        file: name of the file that is mutated.
        kind: its format, for `mutate`.
        prepare: writes into a folder what the reader needs beside it.
        where: what a refusal must name; None is the file.
        cost: how many inputs of a cheap reader one of this takes.
    """

    name: str
    file: str
    kind: str
    prepare: Callable[[Path], Prepared]
    where: str | None = None
    cost: int = 1


def fault_of(error: BaseException, where: str) -> str | None:
    """Return what is wrong with a refusal; None if it is as it should be."""
    if not isinstance(error, InputError):
        frames = traceback.extract_tb(error.__traceback__)
        last = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "site-packages" not in f.filename][-2:]
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({', '.join(last)})"
    line = str(error)
    if not line.isprintable():
        return f"more than one line, or characters that are not to be seen: {line[:200]!r}"
    if len(line) > LONGEST_LINE:
        return f"a line of {len(line)} characters: {line[:200]!r}"
    return None if where in line else f"does not say where: {line[:300]!r}"


def content_of(reader: Reader, prepared: Prepared, seed: int, number: int) -> bytes:
    """Return an input; the first ones are the valid files as they are."""
    if number < len(prepared.samples):
        return prepared.samples[number]
    return mutate(generator(seed, reader.name, number), prepared.samples, reader.kind)


def try_one(reader: Reader, prepared: Prepared, folder: Path, seed: int, number: int) -> tuple[str, str]:
    """Return `accepted`, `refused` or `crash`, and the line; a valid file that is refused is a crash too."""
    path, fresh = folder / reader.file, folder / "fresh"
    fresh.write_bytes(content_of(reader, prepared, seed, number))
    os.replace(fresh, path)  # a file of its own each time: HDF5 knows open files by their inode
    try:
        prepared.read(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        fault = fault_of(error, reader.file if reader.where is None else reader.where)
        if fault is None and number < len(prepared.samples):
            fault = f"a valid file is refused: {error}"
        return ("refused", str(error)) if fault is None else ("crash", fault)
    return "accepted", ""
