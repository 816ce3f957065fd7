"""What a run keeps in its folder besides its log: checkpoints and the state to go on from. The first process writes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.checkpoint import save_checkpoint
from runtime.errors import InputError
from runtime.files import FolderLock, write_json
from training.saved_state import SavedState

BEST = "checkpoint_dev_best.pth.tar"
WARMED = "checkpoint_warmup.pth.tar"
BROKEN = "not_finite.pth.tar"
CONFIG, RESULTS = "config.json", "results.json"


class RunFiles:
    """A run's folder.

    Args:
        folder: exists.
        writes: whether this process is the one that writes; the others find everything saved.

    Raises:
        InputError: another process writes into it.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self.lock = FolderLock(folder) if writes else None
        self.saved = SavedState(folder)
        self.unsaved: dict[str, dict[str, Any]] = {}
        """Checkpoints that could not be written yet, by file name."""
        self.say: Callable[[str], None] = lambda line: None

    def json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file."""
        if self.writes:
            write_json(self.folder / name, content)

    def checkpoint(self, name: str, content: dict[str, Any]) -> None:
        """Write a checkpoint; if that fails, say so, keep it, and try again at every save."""
        if self.writes:
            self.unsaved[name] = content
            self.save_unsaved()

    def save_unsaved(self) -> None:
        """Try again to write what could not be written."""
        for name, content in list(self.unsaved.items()):
            try:
                save_checkpoint(self.folder / name, content)
                del self.unsaved[name]
            except InputError as error:
                self.unsaved[name] = copy.deepcopy(content)  # training goes on and changes the weights
                self.say(f"warning: {error}; training goes on, and the next save tries again")

    def state(self, content: Callable[[], dict[str, Any]]) -> None:
        """Save all that the run needs to go on; if that fails, say so and go on.

        While a checkpoint waits to be written, the state before its validation is the one to go on from.
        """
        self.save_unsaved()
        if not self.writes or self.unsaved:
            return
        try:
            self.saved.save(content())
        except InputError as error:
            self.say(f"warning: {error}; training goes on, and the next save tries again")

    def snapshot(self, content: dict[str, Any]) -> Path:
        """Put down what is needed to look into a step that went wrong; return where."""
        path = self.folder / BROKEN
        if self.writes:
            save_checkpoint(path, content)
        return path

    def finish(self) -> None:
        """Leave the folder to others: the run is done."""
        if self.writes:
            self.saved.clear()
        self.release()

    def release(self) -> None:
        """Let another process write."""
        if self.lock is not None:
            self.lock.release()
