"""Which folder a run writes into: a new one, or that of the run it goes on with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from runtime.errors import InputError
from training.config import RunConfig
from training.saved_state import SavedState

RESULTS = "results.json"


def _candidates(config: RunConfig) -> Iterator[Path]:
    """Yield the run's folders in order: NAME, NAME-2, NAME-3, ..."""
    name, parent = config.run_name(), Path(config.training.output_dir)
    yield parent / name
    yield from (parent / f"{name}-{number}" for number in count(2))


def choose_folder(config: RunConfig) -> tuple[Path, bool]:
    """Return the run's folder and whether it holds a state to go on from.

    Raises:
        InputError: nothing can be written, or the run to go on with is finished.
    """
    if config.training.resume:
        existing = []
        for folder in _candidates(config):
            if not folder.is_dir():
                break
            existing.append(folder)
        if existing:
            return _resumed(existing[-1])
    return _claimed(config), False


def _resumed(folder: Path) -> tuple[Path, bool]:
    if (folder / RESULTS).exists():
        raise InputError(f"--resume: the run in {folder} is finished; without --resume a new one is started")
    return folder, SavedState(folder).exists()


def _claimed(config: RunConfig) -> Path:
    """Make a new folder; earlier runs of the same name are kept, and the new one gets a number."""
    try:
        for folder in _candidates(config):
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise InputError(
            f"--output_dir {config.training.output_dir} cannot be written: {error.strerror}; name another folder"
        ) from None
    raise AssertionError("unreachable: numbers do not end")
