"""Named arrays into one .npz file, one after the other: only one of them need be in memory at a time."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from runtime.errors import InputError


class ArrayFile:
    """Write arrays into a file that gets its name when the block ends well; otherwise nothing is left.

    Args:
        path: the .npz file, or None to write nothing.

    Raises:
        InputError: the place cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> ArrayFile:
        if self._path is not None:
            self._temporary = self._path.with_name(self._path.name + ".part")
            with self._said():
                self._file = open(self._temporary, "wb")
            self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED)
        return self

    def write(self, name: str, array: np.ndarray) -> None:
        """Add an array."""
        if self._path is not None:
            with self._said(), self._archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is None:
            return
        try:
            if error is None:
                with self._said():
                    self._archive.close()
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    os.replace(self._temporary, self._path)
        finally:
            for part in (self._archive, self._file):
                with contextlib.suppress(OSError, ValueError):
                    part.close()
            with contextlib.suppress(OSError):
                self._temporary.unlink()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self._path} cannot be written: {error.strerror or error}") from None
