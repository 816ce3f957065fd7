"""Which folder a run writes into: a new one, or that of the run it goes on with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from runtime.errors import InputError
from runtime.run_folder import claim, numbered
from training.config import RunConfig
from training.files import RESULTS
from training.saved_state import SavedState


@dataclass(frozen=True)
class Place:
    """Where a run writes.

    Attributes:
        is_new: the folder was made for this run.
        is_resumed: it holds a state to go on from.
        config: the run's settings; those of the flags, but for `saved_model` where that named the folder.
    """

    folder: Path
    is_new: bool
    is_resumed: bool
    config: RunConfig


def choose_folder(config: RunConfig) -> Place:
    """Return the place of a new run, or of the one that `--resume` or a folder as `--saved_model` goes on with.

    Raises:
        InputError: nothing can be written, or the run to go on with is finished or has saved nothing.
    """
    if config.training.continued is not None:
        return _continued(config, config.training.continued)
    parent, name = Path(config.training.output_dir), config.run_name()
    if config.training.resume:
        existing = list(takewhile(Path.is_dir, numbered(parent, name)))
        if existing:
            return _resumed(config, existing[-1])
    return Place(claim(parent, name), True, False, config)


def _resumed(config: RunConfig, folder: Path) -> Place:
    if (folder / RESULTS).exists():
        SavedState(folder).clear()  # left over if the run was killed right after its results
        raise InputError(f"--resume: the run in {folder} is finished; without --resume a new one is started")
    return Place(folder, False, SavedState(folder).exists(), config)


def _continued(config: RunConfig, folder: Path) -> Place:
    """Go on in a folder that `--saved_model` names, with the start that its run was given."""
    if (folder / RESULTS).exists():
        SavedState(folder).clear()
        raise InputError(
            f"--saved_model {folder}: that run is finished; to start a new one from its networks name a checkpoint in "
            "it, such as checkpoint_dev_best.pth.tar"
        )
    state = SavedState(folder)
    if not state.exists():
        raise InputError(
            f"--saved_model {folder} is a folder without a run's saved state; name the folder of an interrupted run, "
            "or a .pth.tar file"
        )
    content, _ = state.load()
    start = content["config"]["training"]["saved_model"]
    training = replace(config.training, saved_model=start, resume=True)
    return Place(folder, False, True, replace(config, training=training))
