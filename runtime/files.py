"""Files of strangers and files of ours: what a file really is, JSON from outside, whole files, a lock on a folder."""

from __future__ import annotations

import json
import os
import zipfile
from argparse import Namespace  # as a stored type; no command line is read here
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from runtime.errors import InputError

# -- what a file really is --------------------------------------------------------------------------------------------

HEAD_BYTES = 256
"""So many first bytes tell a file's kind."""

NPY, HDF5, ZIP = b"\x93NUMPY", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""What torch.save began files with before it wrote archives."""


def not_fetched(head: bytes) -> str | None:
    """Return what a file is that was not downloaded, or not rightly, and what to do, in words that follow its name.

    Args:
        head: its first bytes.

    Returns:
        None for a file of which nothing of that kind is known.
    """
    if head.startswith(b"version https://git-lfs.github.com/"):
        return "is a git-lfs pointer, not the file itself; fetch that: git lfs pull"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file; download it again"
    return None


def foreign_kind(head: bytes, wanted: bytes | None = None) -> str | None:
    """Return what a file is that should be of another kind, and what to do, in words that follow its name.

    Args:
        head: its first bytes.
        wanted: what a file of the kind that is looked for begins with; None for text.

    Returns:
        None for a file of the wanted kind, and for one of which nothing is known.
    """
    if wanted is not None and head.startswith(wanted):
        return None
    if head.startswith(OLD_TORCH) or (head.startswith(ZIP) and b"/data.pkl" in head):
        return "is a file of torch.save; save its tensor as an array: numpy.save(FILE, tensor.numpy())"
    if head.startswith(ZIP):
        return "is an archive (zip, or npz); take out what is needed"
    if head.startswith(HDF5):
        return "is an HDF5 file; such a file is read if its name ends in .h5"
    if head.startswith(NPY):
        return "is an npy file; such a file is read if its name ends in .npy"
    return not_fetched(head)


def kind_of_file(path: Path, wanted: bytes | None = None) -> str | None:
    """Return what `foreign_kind` says of a file; None too if it cannot be read."""
    return foreign_kind(head_of(path), wanted)


def head_of(path: Path) -> bytes:
    """Return a file's first bytes; none of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


# -- plain values -----------------------------------------------------------------------------------------------------

DEEPEST = 64
MOST = 5_000_000
"""Lists and dicts, counted as often as they are met."""
LARGEST = 2**1000
"""Whole numbers stay below."""


def check_plain(content: Any) -> None:
    """Look at all values in lists, tuples, dicts and stored options, keys and names too, before anything else does.

    A few bytes of JSON can nest deeper than a recursive function can follow. A pickle can hold a list that contains
    itself. Both can hold numbers that no float can hold, and texts with half a character, which no terminal takes.

    Raises:
        ValueError: something is too deep, too much, too large, or no text; in words, without the file's name.
    """
    level, met = [[content]], 0
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for node in level:
            values = vars(node) if isinstance(node, Namespace) else node
            for value in (*values, *values.values()) if isinstance(values, dict) else values:
                if isinstance(value, (dict, list, tuple, Namespace)):
                    inner.append(value)
                elif isinstance(value, str) and not value.isascii():
                    try:
                        value.encode("utf-8")
                    except UnicodeEncodeError:
                        raise ValueError(
                            "it holds a text with half a character (one of U+D800 to U+DFFF alone)"
                        ) from None
                elif isinstance(value, int) and abs(value) >= LARGEST:
                    raise ValueError("it holds a number of more than 300 digits")
            if met + len(inner) > MOST:
                raise ValueError(f"it holds more than {MOST} lists")
        if not inner:
            return
        level, met = inner, met + len(inner)
    raise ValueError(f"it nests deeper than {DEEPEST} levels")


def parse_json(content: bytes) -> Any:
    """Return the content of a JSON file: UTF-8, with or without a byte-order mark.

    Raises:
        ValueError: not UTF-8, not JSON, or what `check_plain` raises; in words, without the file's name.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it nests too deep") from None
    except UnicodeDecodeError as error:  # whose text would quote all of the content
        raise ValueError(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None
    check_plain(value)
    return value


# -- whole files ------------------------------------------------------------------------------------------------------


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when all is written and on disk: temporary file, fsync, rename.

    Raises:
        InputError: the place cannot be written; nothing new is left there.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
        raise


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all."""
    with whole_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, human-readable and whole."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


@contextmanager
def array_file(path: Path | None) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Write named arrays into one .npz file, one after the other: only one of them need be in memory at a time.

    Args:
        path: the file, which is there whole when the block ends well, or not at all; None: nothing is written.

    Yields:
        what writes an array under a name.

    Raises:
        InputError: the place cannot be written.
    """
    if path is None:
        yield lambda name, array: None
        return
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:

        def write(name: str, array: np.ndarray) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

        yield write


# -- one writer a folder ----------------------------------------------------------------------------------------------

LOCK = "lock"


class FolderLock:
    """Hold a folder for this process until it ends, however it ends, or `release` is called.

    Raises:
        InputError: another process holds it (names that process), or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._lock = FileLock(self._path, timeout=0)
        try:
            self._lock.acquire()
            self._path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        except Timeout:
            holder = head_of(self._path)[:32].decode(errors="replace").strip()
            raise InputError(f"{folder} is being written by process {holder}; wait for it, or end it") from None
        except OSError as error:
            self._lock.release()
            raise InputError(f"{self._path} cannot be written: {error.strerror}; name another folder") from None

    def release(self) -> None:
        """Let others write, and leave no trace: removed while it is held, so that nobody else's file is."""
        if self._lock.is_locked:
            with suppress(OSError):  # Windows removes no open file
                self._path.unlink()
            self._lock.release()
