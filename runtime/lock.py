"""One writer a folder: a lock that dies with its process, and that its forks do not hold."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from runtime.errors import InputError

NAME = "lock"


class FolderLock:
    """Hold a folder for this process until it ends, however it ends, or `release` is called.

    Raises:
        InputError: another process holds it (names that process), or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK  # a link would empty another file
        try:
            self._file: BinaryIO = os.fdopen(os.open(self._path, flags, 0o666), "a+b")
        except OSError as error:
            raise InputError(f"{self._path} cannot be written: {error.strerror}; name another folder") from None
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read(32).decode(errors="replace").strip()
            self._file.close()
            raise InputError(f"{folder} is being written by process {holder}; wait for it, or end it") from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n".encode())
        self._file.flush()

    def release(self) -> None:
        """Let others write, and leave no trace."""
        self._path.unlink(missing_ok=True)
        self._file.close()
