"""Checkpoints: tensors and plain types only, loaded with `weights_only=True`, written whole or not at all.

{"format": 1, "epoch": int, "config": {...}, "vocabulary_digest": str, "networks": [state dict, ...],
 "dev": {...}, "chosen_on": "dev"}
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from runtime.errors import InputError

FORMAT = 1
FIELDS = ("format", "epoch", "config", "vocabulary_digest", "networks")
SECTIONS = ("data", "matcher", "shape", "training")
"""Parts of `config` that a reader needs."""


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
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
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    with _whole_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, human-readable and whole."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint (the fields of the module docstring, less `format`) to `path`, atomically."""
    with _whole_file(path) as file:
        torch.save({"format": FORMAT, **content}, file)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without executing anything in it.

    Raises:
        InputError: no such file, not a checkpoint, or one of another program.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; give the path of a .pth.tar file that run.py wrote")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # the bytes of another file can lead the unpickler into any exception
        content = None
    if not isinstance(content, dict) or any(field not in content for field in FIELDS):
        raise InputError(f"{path} is not a checkpoint of this suite; give a .pth.tar file that run.py wrote")
    if content["format"] != FORMAT:
        raise InputError(f"{path} has checkpoint format {content['format']}; this version reads format {FORMAT}")
    config, networks = content["config"], content["networks"]
    has_sections = isinstance(config, dict) and all(isinstance(config.get(name), dict) for name in SECTIONS)
    if not has_sections or not isinstance(networks, list) or not networks:
        raise InputError(f"{path} is damaged: it lacks its networks or the settings they were trained with")
    return content
