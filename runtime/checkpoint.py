"""Checkpoints: tensors and plain types only, loaded with `weights_only=True`, written whole or not at all.

{"format": 1, "epoch": int, "config": {...}, "vocabulary_digest": str, "networks": [state dict, ...],
 "dev": {...}, "chosen_on": "dev"}
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from runtime.errors import InputError

FORMAT = 1
FIELDS = ("format", "epoch", "config", "vocabulary_digest", "networks")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, human-readable and whole."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint (the fields of the module docstring, less `format`) to `path`, atomically."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without executing anything in it.

    Raises:
        InputError: no such file, not a checkpoint, or one of another program.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; give the path of a .pth.tar file that run.py wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{path} is not a checkpoint of this suite ({reason[0][:120] if reason else type(error).__name__}); "
            "give a .pth.tar file that run.py wrote"
        ) from None
    if not isinstance(content, dict) or any(field not in content for field in FIELDS):
        raise InputError(f"{path} is not a checkpoint of this suite; give a .pth.tar file that run.py wrote")
    if content["format"] != FORMAT:
        raise InputError(f"{path} has checkpoint format {content['format']}; this version reads format {FORMAT}")
    return content
