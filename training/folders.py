"""Which folder a run writes into: a new one, or that of the run it goes on with."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

from runtime.errors import InputError
from runtime.run_folder import claim, numbered
from training.config import RunConfig
from training.saved_state import SavedState

RESULTS = "results.json"


def choose_folder(config: RunConfig) -> tuple[Path, bool]:
    """Return the run's folder and whether it holds a state to go on from.

    Raises:
        InputError: nothing can be written, or the run to go on with is finished.
    """
    parent, name = Path(config.training.output_dir), config.run_name()
    if config.training.resume:
        existing = list(takewhile(Path.is_dir, numbered(parent, name)))
        if existing:
            return _resumed(existing[-1])
    return claim(parent, name), False


def _resumed(folder: Path) -> tuple[Path, bool]:
    if (folder / RESULTS).exists():
        raise InputError(f"--resume: the run in {folder} is finished; without --resume a new one is started")
    return folder, SavedState(folder).exists()
