"""A run in progress: its stages and what their epochs are like, its passes over batches, its saves and its pace."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from data_utils.loaders import Batch, load, shuffled_batches
from data_utils.precomputed import PrecomputedSplit
from runtime.distributed import Processes
from runtime.errors import InputError, Interruption
from runtime.log import RunLog, duration
from runtime.seed import generator
from training.checkpointing import BEST, CONFIG, RunFiles, RunState
from training.config import LR_RULES, RunConfig, TrainingConfig
from training.data import RunData
from training.network import Network, NotFinite
from training.reports import described, introduction

T = TypeVar("T")

START, WARM_UP, CLEAN, NOISY = "start", "warm-up", "clean", "noisy"
"""Kinds of work of a stage: none, steps of the warm-up, on clean pairs, on clean and noisy pairs."""

FIRST_STEPS, FIRST_SECONDS, LONGEST_WAIT = 5, 1.0, 20.0
"""After so many steps and seconds, or after that many seconds alone, it is said what a step takes."""

LATEST = 50
"""So many last steps tell what a step takes."""

LONG = 24 * 3600
"""A run of more seconds is worth a hint."""


@dataclass(frozen=True)
class Stage:
    """A warm-up epoch (`warm-up`), an epoch (`epoch`), or the validation of what a run starts from (`start`).

    Attributes:
        epoch: its number among its kind, from 0.
        is_last: of its kind.
    """

    kind: str
    epoch: int
    title: str
    is_last: bool


def stages(settings: TrainingConfig) -> list[Stage]:
    """Return everything between the start and the test, in order."""
    first = [Stage(START, 0, "start", True)]
    if not settings.saved_model and not settings.warmup_model_path:
        last = settings.warmup_epoch
        first = [Stage(WARM_UP, e, f"warm-up {e + 1}/{last}", e + 1 == last) for e in range(last)]
    last = settings.num_epochs
    return first + [Stage("epoch", e, f"epoch {e + 1}/{last}", e + 1 == last) for e in range(last)]


def learning_rate(settings: TrainingConfig, epoch: int) -> float:
    """Return this epoch's learning rate, by `--lr_rule`."""
    return settings.learning_rate * LR_RULES[settings.lr_rule](epoch, settings.num_epochs, settings.lr_update)


def hardness(settings: TrainingConfig, epoch: int) -> float:
    """Return how hard this epoch's negatives are: 0 their mean, 1 the hardest."""
    if settings.negatives == "anneal":
        return min(1.0, epoch / settings.anneal_epochs)
    return 1.0 if settings.negatives == "hardest" else 0.0


class Pace:
    """How long a run still takes: what a step of its kind has taken so far times the steps that are left.

    A division and a ranking take what the last one took; before there was one, what is left is told as "at least".

    Args:
        kinds: of every stage's work.
        steps: of an epoch over all training pairs.
        turns: by kind, how many networks take their steps one after the other.

    Attributes:
        taken: by kind, seconds of the latest steps.
        sizes: by kind, the steps of one network in the last epoch.
        last: seconds of the last `division` and of the last `ranking`, of all networks.
    """

    def __init__(self, kinds: Sequence[str], steps: int, turns: Mapping[str, int]) -> None:
        self._kinds, self._steps, self._turns = kinds, steps, turns
        self.taken: dict[str, deque[float]] = {}
        self.sizes: dict[str, int] = {}
        self.last: dict[str, float] = {}
        self._is_told = False

    def stepped(self, kind: str, seconds: float) -> None:
        """Count a step."""
        self.taken.setdefault(kind, deque(maxlen=LATEST)).append(seconds)

    def seconds(self, kind: str) -> float:
        """Return the seconds of a step: of its kind, or before there was one of the kind that began last."""
        known = self.taken.get(kind) or next(reversed(self.taken.values()), None)
        return median(known) if known else 0.0

    def left(self, state: RunState) -> tuple[float, float]:
        """Return about how many seconds are left of the stage in progress, and of the run with its test."""
        ranking, division = self.last.get("ranking", 0.0), self.last.get("division", 0.0)

        def of(kind: str) -> float:
            steps = self._turns.get(kind, 0) * self.sizes.get(kind, self._steps)
            return steps * self.seconds(kind) + (division if kind in (CLEAN, NOISY) else 0.0) + ranking

        kind, later = self._kinds[state.stage], self._kinds[state.stage + 1 :]
        done = sum(steps.batches for steps in state.steps.values())
        here = max(0.0, of(kind) - done * self.seconds(kind) - (division if state.is_divided else 0.0))
        return here, here + sum(map(of, later)) + ranking

    def left_in_words(self, state: RunState, about: str = "") -> str:
        """Return what `left` does, for people; `about` stands before the run's seconds if all of its work is known."""
        of_stage, of_run = self.left(state)
        how = about if {"division", "ranking"} <= self.last.keys() else "at least "
        return f"{duration(of_stage)} of the epoch, {how}{duration(of_run)} of the run"

    def first_word(self, state: RunState, module: str) -> str:
        """Return a line on what a step takes and what that means for the run, once after some steps; else ""."""
        count, seconds = sum(map(len, self.taken.values())), sum(map(sum, self.taken.values()))
        is_due = (count >= FIRST_STEPS and seconds >= FIRST_SECONDS) or seconds >= LONGEST_WAIT
        if self._is_told or not is_due:
            return ""
        self._is_told = True
        step = duration(self.seconds(self._kinds[state.stage]))
        line = f"a step takes about {step} here; left are {self.left_in_words(state, 'about ')}"
        if self.left(state)[1] > LONG and module not in ("VSE", "GPO"):
            line += "; much faster: a GPU, --module_name VSE or GPO, or a recipe of the embedded data (recipes/)"
        return line


class Running:
    """What all parts of a run share.

    Attributes:
        state: what is saved and restored.
        processes: those that share the run; all hold the same networks and go through the same batches.
        log: what it says and records.
        interruption: whether it was asked to end.
        pace: how long its work takes.
    """

    def __init__(
        self,
        config: RunConfig,
        data: RunData,
        device: torch.device,
        state: RunState,
        files: RunFiles,
        processes: Processes,
    ) -> None:
        self.config, self.data, self.device = config, data, device
        self.settings, self.state, self.files, self.processes = config.training, state, files, processes
        self.log = RunLog(None)
        self.interruption = Interruption()
        turns = dict.fromkeys((WARM_UP, CLEAN, NOISY), len(state.networks))
        if self.settings.warmup_type == "co_teaching":
            turns[WARM_UP] = 1
        kinds = [self.work_of(stage) for stage in stages(self.settings)]
        self.pace = Pace(kinds, ceil(len(data.train) / self.settings.step_size), turns)
        self._began = self._saved = time.monotonic()

    def begin(self, remarks: Sequence[str], log_size: dict[str, int] | None) -> None:
        """Open the log, of a resumed run with what of it belongs to the state, and say the remarks; of several
        processes one speaks."""
        self._began = time.monotonic() - self.state.seconds
        if self.processes.is_first:
            self.log = RunLog(self.files.folder, log_size)
        self.files.say = self.log.say
        for line in remarks:
            self.log.say(line)

    def introduce(self) -> None:
        """Say and save what a new run is."""
        self.files.json(CONFIG, described(self.config, self.data))
        for line in introduction(self.config, self.data, self.device, self.files.folder):
            self.log.say(line)
        self.save()

    def trains_noisy(self, epoch: int) -> bool:
        """Tell whether the noisy side is trained in this epoch, if there is any."""
        is_due = epoch >= self.settings.noisy_start * self.settings.num_epochs
        return is_due and all(network.method.wants_noisy for network in self.state.networks)

    def work_of(self, stage: Stage) -> str:
        """Return what a stage's steps are: start, warm-up, clean or noisy."""
        return stage.kind if stage.kind != "epoch" else NOISY if self.trains_noisy(stage.epoch) else CLEAN

    @property
    def seconds(self) -> float:
        """Run time, that before an interruption included."""
        return time.monotonic() - self._began

    def save(self) -> None:
        """Save all that the run needs to go on from here."""
        self._saved = time.monotonic()
        self.state.seconds = self.seconds
        settings, digest = described(self.config, self.data), self.data.digest()
        self.files.state(self.state, config=settings, data_digest=digest, log=self.log.size())

    def checkpoint(self, name: str, title: str) -> None:
        """Write a checkpoint of all networks, as they are after the stage of that title."""
        content = {
            "epoch": self.state.epochs_done,
            "title": title,
            "config": described(self.config, self.data),
            "vocabulary_digest": self.data.vocabulary.digest(),
            "networks": [n.matcher.state_dict() for n in self.state.networks],
            "chosen_on": "dev" if name == BEST else None,
            "dev": self.state.best["results"] if self.state.best else {},
        }
        self.files.checkpoint(name, content)

    def pause_is_due(self) -> bool:
        """Tell, in all processes alike, whether to save now: it is time to, or one of them was asked to end."""
        is_late = time.monotonic() >= self._saved + 60 * self.settings.save_minutes
        return self.processes.any(self.interruption.requested is not None or is_late)

    def save_if_due(self) -> None:
        """Save if it is time to, or if the run is to end."""
        if self.pause_is_due():
            self.save()

    def check(self) -> None:
        """Raise `Stopped` if any process was asked to end."""
        if self.processes.any(self.interruption.requested is not None):
            self.interruption.ask()
        self.interruption.check()

    # -- passes over the training pairs ---------------------------------------------------------------------------

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Return a generator of the run's seed for one purpose."""
        return generator(self.settings.seed, *purpose)

    def batches(self, pairs: np.ndarray, *purpose: str | int) -> list[Tensor]:
        """Shuffle pair numbers into an epoch's batches."""
        return shuffled_batches(pairs, self.settings.step_size, self.generator(*purpose))

    def walk(self, work: Callable[[T], bool], items: Sequence[T]) -> None:
        """Do an epoch's work on every item in turn, and save whenever a pause is due.

        Args:
            work: does what is left of it until a pause is due; tells whether nothing is left.
            items: networks, or what stands for them.
        """
        for item in items:
            while not work(item):
                self.check()
                self.save()
        self.state.end_pass()

    def over(
        self,
        title: str,
        networks: Sequence[Network],
        batches: list[Tensor],
        one_step: Callable[[Batch], float],
        kind: str,
        split: PrecomputedSplit | None = None,
    ) -> bool:
        """Take a step on each of what is left of an epoch's batches until a pause is due; tell whether nothing is left.

        Args:
            title: of the progress bar.
            networks: those that a step changes.
            batches: the whole epoch's.
            one_step: takes one and returns its loss per pair.
            kind: of step, for the run's pace.
            split: whose pairs the batches name; None: the training pairs.

        Raises:
            InputError: a loss or gradient is not finite, and `--on_nan stop`.
        """
        for network in networks:
            network.matcher.train()
        name, log_step = "+".join(n.name for n in networks), self.settings.log_step
        steps = self.state.steps_of(name)
        left = partial(self.pace.left_in_words, self.state)
        progress = self.log.progress(title, sum(map(len, batches)), every=log_step, left=left)
        progress.skip(sum(map(len, batches[: steps.batches])))
        self.pace.sizes[kind] = len(batches)
        began, loss = time.monotonic(), None
        pairs, left_over = split or self.data.train, batches[steps.batches :]
        for batch in load(pairs, left_over, self.settings.workers, device=self.device, processes=self.processes):
            before = [network.before_step() for network in networks]
            try:
                loss = one_step(batch)
                steps.losses.append(loss)
            except NotFinite as fault:
                self._broken(fault, title, steps.batches + 1, networks, before, batch)
            steps.batches += 1
            steps.total += 1
            is_last = steps.batches == len(batches)
            if steps.batches % log_step == 0 or is_last:
                self._record_loss(name)
            began, earlier = time.monotonic(), began
            self.pace.stepped(kind, began - earlier)
            if word := self.pace.first_word(self.state, self.config.matcher.module_name):
                self.log.say(word)
            progress.advance(len(batch), loss)
            if not is_last and self.pause_is_due():
                break
        progress.close()
        return steps.batches == len(batches)

    def _record_loss(self, name: str) -> None:
        """Record the mean loss of the last steps; nothing if all were skipped."""
        steps = self.state.steps_of(name)
        if steps.losses:
            where = {"event": "loss", "epoch": self.state.epochs_done, "network": name}
            self.log.scalars(steps.total, {f"loss/{name}": float(np.mean(steps.losses))}, **where)
            steps.losses = []

    def _broken(
        self,
        fault: NotFinite,
        title: str,
        number: int,
        networks: Sequence[Network],
        before: list[dict[str, Tensor]],
        batch: Batch,
    ) -> None:
        """Do what `--on_nan` says of a step whose loss or gradient is not finite; nothing was updated."""
        where, skips = f"{fault} at batch {number} of {title}", self.settings.on_nan == "skip"
        for network, earlier in zip(networks, before, strict=True):
            network.undo_forward(earlier, dropout=not skips)
        if skips:
            self.log.say(f"  warning: {where}; the step is skipped")
            return
        states = [network.state() for network in networks]
        path = self.files.snapshot({"title": title, "batch": number, "pairs": batch.index.cpu(), "networks": states})
        raise InputError(
            f"{where}; {path} holds the networks before that step and the pairs of its batch; lower --learning_rate, "
            "or go on past it with --on_nan skip --resume"
        )
