"""One writer a folder: a lock that dies with its process, and that its forks do not hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from runtime.errors import InputError

try:
    import fcntl
except ImportError:  # Windows; what only reads works there
    fcntl = None  # type: ignore[assignment]

NAME = "lock"


class FolderLock:
    """Hold a folder for this process until it ends, however it ends, or `release` is called.

    Raises:
        InputError: another process holds it (names that process), it cannot be written, or the platform has no locks
            that end with their process.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        if fcntl is None:
            raise InputError(
                f"{folder} cannot be locked: what writes runs and indexes needs Linux or macOS (on Windows, WSL); "
                "evaluation works without"
            )
        self._file = self._opened()
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.seek(0)
                holder = self._file.read(32).decode(errors="replace").strip()
                self._file.close()
                raise InputError(f"{folder} is being written by process {holder}; wait for it, or end it") from None
            if self._is_there():
                break
            self._file.close()  # the process that held it removed it in between: others would lock a new file
            self._file = self._opened()
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n".encode())
        self._file.flush()

    def _opened(self) -> BinaryIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK  # a link would empty another file
        try:
            return os.fdopen(os.open(self._path, flags, 0o666), "a+b")
        except OSError as error:
            raise InputError(f"{self._path} cannot be written: {error.strerror}; name another folder") from None

    def _is_there(self) -> bool:
        """Tell whether the file that is locked is still the one that others find under its name."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others write, and leave no trace: removed while it is held, so that nobody else's file is."""
        if self._is_there():
            self._path.unlink()
        self._file.close()
