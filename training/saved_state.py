"""A run's state on disk: two generations, each whole with a checksum inside, so that one good one is always there.

A file is: MAGIC, the SHA-256 of the rest, the rest (a checkpoint of tensors and plain values). It is written to a
temporary file, flushed to the disk and renamed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from runtime.errors import InputError
from runtime.files import whole_file
from runtime.torch_file import as_bytes, read_torch_file

MAGIC = b"run state 1\n"
NAMES = ("state-0", "state-1")
DIGEST = hashlib.sha256().digest_size


class SavedState:
    """The two state files of an output folder."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / name for name in NAMES]
        self._generation = 0

    def exists(self) -> bool:
        """Tell whether anything was ever saved."""
        return any(path.exists() for path in self._paths)

    def save(self, content: dict[str, Any]) -> None:
        """Write the next generation over the older of the two files.

        Raises:
            InputError: it cannot be written; the generation before is untouched.
        """
        payload = as_bytes({"generation": self._generation + 1, **content})
        path = self._paths[(self._generation + 1) % len(self._paths)]
        with whole_file(path) as file:
            file.write(MAGIC + hashlib.sha256(payload).digest())
            file.write(payload)
        self._generation += 1

    def clear(self) -> None:
        """Remove both files."""
        for path in self._paths:
            path.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Any], list[str]]:
        """Return the latest state that is whole, and what is to be said of files that are not.

        Raises:
            InputError: there is none.
        """
        found, remarks = [], []
        for path in self._paths:
            if not path.exists():
                continue
            content = _read(path)
            if content is None:
                remarks.append(f"warning: {path} is damaged; the state before it is used")
            else:
                found.append(content)
        if not found:
            raise InputError(f"{self._paths[0].parent} holds no whole state to resume from; start the run again")
        latest = max(found, key=lambda content: content["generation"])
        self._generation = latest["generation"]
        return latest, remarks


def _read(path: Path) -> dict[str, Any] | None:
    """Return a state file's content, None if it is damaged. Nothing in it is executed."""
    data = path.read_bytes()
    digest, payload = data[len(MAGIC) : len(MAGIC) + DIGEST], data[len(MAGIC) + DIGEST :]
    if not data.startswith(MAGIC) or hashlib.sha256(payload).digest() != digest:
        return None
    try:
        content = read_torch_file(payload, str(path))
    except InputError:
        return None
    return content if isinstance(content, dict) and isinstance(content.get("generation"), int) else None
