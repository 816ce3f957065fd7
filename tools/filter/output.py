"""An output folder that holds all results of a run or, if it fails, none of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from runtime.errors import InputError
from tools.filter.files import split_name


def check_output(folder: Path, inputs: Collection[str], *, overwrite: bool) -> None:
    """Find out early whether results may go to `folder`.

    Raises:
        InputError: it is a file, holds something and may not be overwritten, or holds one of the inputs.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file; name a folder")
    if any(split_name(spec)[0].resolve().parent == folder.resolve() for spec in inputs):
        raise InputError(f"--output {folder} holds one of the input files; name another folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InputError(f"--output {folder} is not empty; name another folder, or give --overwrite")


def _remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_at_once(folder: Path, known: Collection[str]) -> Iterator[Path]:
    """Give a temporary folder inside `folder` whose files move up when all are written.

    Args:
        folder: where the files go; made if it is not there, removed again if nothing comes.
        known: names of files or folders that an earlier run may have left there: those not written anew are removed.

    Raises:
        InputError: the place cannot be written; nothing new is left there.
    """
    is_new, temporary = not folder.exists(), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
        yield temporary
        written = sorted(temporary.iterdir())
        for path in written:
            if (folder / path.name).is_dir():
                _remove(folder / path.name)  # a file is written over
            os.replace(path, folder / path.name)
        for name in set(known) - {path.name for path in written}:
            _remove(folder / name)
    except OSError as error:
        raise InputError(f"--output {folder} cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is empty
