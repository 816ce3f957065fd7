"""What is saved of a run: its folder and the lock on it, checkpoints, and the state from which it goes on.

The state is kept in two generations, each whole with a checksum inside, so that one good one is always there. A state
file is: MAGIC, the SHA-256 of the rest, the rest (tensors and plain values). Every file is written to a temporary one,
flushed to the disk and renamed. When the disk is full training goes on, and every save tries again.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch

from runtime.checkpoint import save_checkpoint
from runtime.errors import InputError
from runtime.files import FolderLock, whole_file, write_json
from runtime.torch_file import as_bytes, read_torch_file
from training.config import RunConfig
from training.division import Division
from training.network import Network

BEST, WARMED, BROKEN = "checkpoint_dev_best.pth.tar", "checkpoint_warmup.pth.tar", "not_finite.pth.tar"
CONFIG, RESULTS = "config.json", "results.json"
MAGIC, STATES = b"run state 1\n", ("state-0", "state-1")
DIGEST = hashlib.sha256().digest_size

FREE = {"workers", "save_minutes", "resume", "gpu", "output_dir", "on_nan"}
"""Settings of training that a resumed run may change."""

PLAIN = ("best", "stage", "is_divided", "is_trained", "epochs_done", "seconds")
"""What a run remembers that is saved as it is."""

LONGEST = 240
"""Bytes of a folder's name, so that there is room for a number behind it."""

SHOWN = 3
"""So many interrupted runs of other names are named."""


@dataclass
class Steps:
    """How far one network is (or both, where they step together).

    Attributes:
        batches: those of this epoch that are done.
        losses: loss per pair of each step since the last record.
        total: steps since the run began, the x axis of its loss curve.
    """

    batches: int = 0
    losses: list[float] = field(default_factory=list)
    total: int = 0


@dataclass
class RunState:
    """All that a run must remember between two optimiser steps, and all that decides what comes next.

    Attributes:
        networks: in training: weights, optimisers, what their methods remember, dropout generators.
        divisions: the last ones, by network.
        best: epoch, title and results of the networks that were best on dev so far.
        stage: number of the stage in progress.
        is_divided: the stage's division is made.
        is_trained: the stage's training is done; what is left is its validation.
        epochs_done: stages that were validated: the step of every record but the loss.
        seconds: run time until the last save.
        steps: by network, `A+B` where they step together.
    """

    networks: list[Network]
    divisions: dict[str, Division] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    stage: int = 0
    is_divided: bool = False
    is_trained: bool = False
    epochs_done: int = 0
    seconds: float = 0.0
    steps: dict[str, Steps] = field(default_factory=dict)

    def steps_of(self, name: str) -> Steps:
        """Return how far a network is."""
        return self.steps.setdefault(name, Steps())

    def next_stage(self) -> None:
        """Go to the next stage's beginning."""
        self.stage += 1
        self.is_divided = self.is_trained = False
        self.end_pass()

    def end_pass(self) -> None:
        """Go to the beginning of the next pass over batches: all networks have made this one."""
        for steps in self.steps.values():
            steps.batches, steps.losses = 0, []

    def as_dict(self) -> dict[str, Any]:
        """Return it as tensors and plain values."""
        device = self.networks[0].device
        return {
            **{name: getattr(self, name) for name in PLAIN},
            "networks": [network.state() for network in self.networks],
            "divisions": {name: division.as_state() for name, division in self.divisions.items()},
            "steps": {name: asdict(steps) for name, steps in self.steps.items()},
            "cuda_random": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Become what `as_dict` returned, in a run of the same configuration."""
        for network, state in zip(self.networks, content["networks"], strict=True):
            network.restore(state)
        for name in PLAIN:
            setattr(self, name, content[name])
        self.divisions = {name: Division.from_state(state) for name, state in content["divisions"].items()}
        self.steps = {name: Steps(**steps) for name, steps in content["steps"].items()}
        device = self.networks[0].device
        if content["cuda_random"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda_random"], device)


class SavedState:
    """The two state files of a run's folder."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / name for name in STATES]
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
        with whole_file(self._paths[(self._generation + 1) % len(self._paths)]) as file:
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
        found = {path: _read(path) for path in self._paths if path.exists()}
        latest = max(filter(None, found.values()), key=lambda content: content["generation"], default=None)
        if latest is None:
            raise InputError(f"{self._paths[0].parent} holds no whole state to resume from; start the run again")
        self._generation = latest["generation"]
        damaged = (path for path, content in found.items() if content is None)
        return latest, [f"warning: {path} is damaged; the state before it is used" for path in damaged]


def _read(path: Path) -> dict[str, Any] | None:
    """Return a state file's content, None if it is damaged. Nothing in it is executed."""
    data = path.read_bytes()
    payload = data[len(MAGIC) + DIGEST :]
    if data[: len(MAGIC) + DIGEST] != MAGIC + hashlib.sha256(payload).digest():
        return None
    try:
        content = read_torch_file(payload, str(path))
    except InputError:
        return None
    return content if isinstance(content, dict) and isinstance(content.get("generation"), int) else None


class RunFiles:
    """What a run keeps in its folder besides its log.

    Args:
        folder: exists.
        writes: whether this process is the one that writes; of several, the others write nothing.

    Raises:
        InputError: another process writes into the folder.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder, self.lock = folder, FolderLock(folder) if writes else None
        self.saved = SavedState(folder)
        self.unsaved: dict[str, dict[str, Any]] = {}
        """Checkpoints that could not be written yet, by file name."""
        self.say: Callable[[str], None] = lambda line: None

    def json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file."""
        if self.lock is not None:
            write_json(self.folder / name, content)

    def checkpoint(self, name: str, content: dict[str, Any]) -> None:
        """Write a checkpoint; if that fails, say so, keep it, and try again at every save."""
        if self.lock is not None:
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

    def state(self, state: RunState, **more: Any) -> None:
        """Save all that the run needs to go on, and `more`; if that fails, say so and go on.

        While a checkpoint waits to be written, the state before its validation is the one to go on from.
        """
        self.save_unsaved()
        if self.lock is None or self.unsaved:
            return
        try:
            self.saved.save({**state.as_dict(), **more})
        except InputError as error:
            self.say(f"warning: {error}; training goes on, and the next save tries again")

    def resume(self, state: RunState, config: dict[str, Any], data_digest: str) -> tuple[list[str], dict[str, int]]:
        """Go back to the saved state; return what is to be said, and how much of the logs belongs to it.

        Raises:
            InputError: no whole state, or one of other settings or data.
        """
        content, remarks = self.saved.load()
        if differing := differing_settings(content["config"], config):
            raise InputError(
                f"--resume: {self.folder} was started with other settings: {differing}; give the same flags"
            )
        if content["data_digest"] != data_digest:
            raise InputError(
                f"--resume: images and captions are paired otherwise than when {self.folder} was started: the noise or "
                "the image ids of a split have changed; give the data of then, or start a new run"
            )
        try:
            state.restore(content)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"--resume: the state in {self.folder} is not one of this run ({error}); start the run again"
            ) from None
        return remarks, content["log"]

    def snapshot(self, content: dict[str, Any]) -> Path:
        """Write what is needed to look into a step that went wrong; return where."""
        if self.lock is not None:
            save_checkpoint(self.folder / BROKEN, content)
        return self.folder / BROKEN

    def finish(self) -> None:
        """Remove the state and the lock: the run is done."""
        if self.lock is not None:
            self.saved.clear()
            self.lock.release()


def differing_settings(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """Return which settings differ, as `name before -> now`, but for those that a resumed run may change."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found.append(differing_settings(old, new, name))
        elif old != new and not (prefix == "training" and name in FREE):
            found.append(f"{name} {old} -> {new}")
    return ", ".join(part for part in found if part)


# -- the folder -----------------------------------------------------------------------------------------------------


def numbered(parent: Path, name: str) -> Iterator[Path]:
    """Yield the folders that runs of this name get: NAME, NAME-2, NAME-3, ...; the numbers do not end.

    Raises:
        InputError: no folder in `parent` can have this name.
    """
    if name in ("", ".", "..") or not name.isprintable() or {"/", "\\"} & set(name) or len(name.encode()) > LONGEST:
        raise InputError(
            f"{name!r} cannot name a run's folder: parts of it, such as --id, hold a path, or what is not to be seen, "
            f"or it is longer than {LONGEST} bytes; the folder's place goes to --output_dir"
        )
    yield parent / name
    yield from (parent / f"{name}-{number}" for number in count(2))


def claim(parent: Path, name: str) -> Path:
    """Make the first of these folders that is not there yet, and return it.

    Raises:
        InputError: it cannot be made.
    """
    for folder in numbered(parent, name):
        try:
            folder.mkdir(parents=True)
            return folder
        except OSError as error:
            if not (isinstance(error, FileExistsError) and folder.is_dir()):
                raise InputError(
                    f"--output_dir {parent} cannot be written: {error.strerror}; name another folder"
                ) from None
    raise AssertionError("unreachable: numbers do not end")


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
    names = [folder.name for folder in parent.glob("*") if _is_interrupted(folder)]
    if not names:
        return ""
    named = ", ".join(get_close_matches(name, names, n=SHOWN, cutoff=0.0))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"; interrupted there: {named}{more} (--id, --noise_ratio, --seed and others are part of a run's name)"


def _continued(config: RunConfig, folder: Path) -> Place:
    """Go on in a folder that `--saved_model` names, with the start that its run was given."""
    state = SavedState(folder)
    if (folder / RESULTS).exists():
        state.clear()
        raise InputError(
            f"--saved_model {folder}: that run is finished; to start a new one from its networks name a checkpoint in "
            f"it, such as {BEST}"
        )
    if not state.exists():
        raise InputError(
            f"--saved_model {folder} is a folder without a run's saved state; name the folder of an interrupted run, "
            "or a .pth.tar file"
        )
    start = state.load()[0]["config"]["training"]["saved_model"]
    training = replace(config.training, saved_model=start, resume=True)
    return Place(folder, False, True, replace(config, training=training))
