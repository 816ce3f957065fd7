"""Which folder a run writes into: a new one, or that of the run it goes on with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import takewhile
from pathlib import Path

from runtime.errors import InputError
from runtime.run_folder import claim, numbered
from training.config import RunConfig
from training.files import RESULTS
from training.saved_state import SavedState

SHOWN = 3
"""Interrupted runs of other names that are named."""


@dataclass(frozen=True)
class Place:
    """Where a run writes.

    Attributes:
        is_new: the folder was made for this run.
        is_resumed: it holds a state to go on from.
        config: the run's settings; those of the flags, but for `saved_model` where that named the folder.
        remarks: what is to be said of the choice.
    """

    folder: Path
    is_new: bool
    is_resumed: bool
    config: RunConfig
    remarks: tuple[str, ...] = ()


def choose_folder(config: RunConfig) -> Place:
    """Return the place of a new run, or of the one that `--resume` or a folder as `--saved_model` goes on with.

    `--resume` means the last run of this name that was interrupted, though later ones may be finished; without any run
    of this name it starts one, and says so.

    Raises:
        InputError: nothing can be written, or the run to go on with is finished, or the one that `--saved_model` names
            has saved nothing.
    """
    if config.training.continued is not None:
        return _continued(config, config.training.continued)
    parent, name = Path(config.training.output_dir), config.run_name()
    if not config.training.resume:
        return Place(claim(parent, name), True, False, config)
    existing = list(takewhile(Path.is_dir, numbered(parent, name)))
    interrupted = [folder for folder in existing if _is_interrupted(folder)]
    if interrupted:
        return Place(interrupted[-1], False, True, config)
    if existing and not (existing[-1] / RESULTS).exists():
        remark = f"--resume: {existing[-1]} holds no saved state to go on from; the run starts over there"
        return Place(existing[-1], False, False, config, (remark,))
    if existing:
        SavedState(existing[-1]).clear()  # left over if the run was killed right after its results
        raise InputError(f"--resume: the run in {existing[-1]} is finished; without --resume a new one is started")
    remark = f"--resume: no interrupted run {name} in {parent}; a new one starts{_others(parent, name)}"
    return Place(claim(parent, name), True, False, config, (remark,))


def _is_interrupted(folder: Path) -> bool:
    return SavedState(folder).exists() and not (folder / RESULTS).exists()


def _others(parent: Path, name: str) -> str:
    """Return words about interrupted runs of other names in the same folder, the most alike first; "" without any."""
    folders = [folder for folder in parent.glob("*") if _is_interrupted(folder)]
    if not folders:
        return ""
    folders.sort(key=lambda folder: SequenceMatcher(None, folder.name, name).ratio(), reverse=True)
    named = ", ".join(folder.name for folder in folders[:SHOWN])
    more = f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else ""
    return f"; interrupted there: {named}{more} (--id, --noise_ratio, --seed and others are part of a run's name)"


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
