"""What a run does when: its stages, what its epochs are like, where it is, and when it pauses to be saved."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from runtime.distributed import Processes
from runtime.errors import Interruption
from runtime.log import duration
from training.config import LR_RULES, TrainingConfig

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


def noisy_side_is_due(settings: TrainingConfig, epoch: int) -> bool:
    """Tell whether the noisy side is trained in this epoch, if the method trains it."""
    return epoch >= settings.noisy_start * settings.num_epochs


@dataclass
class Steps:
    """How far one network is (or both, where they step together).

    Attributes:
        batches: those of this epoch that are done.
        losses: a pair, of the steps since the last record.
        total: steps of the run whose loss is recorded: the step of that record.
    """

    batches: int = 0
    losses: list[float] = field(default_factory=list)
    total: int = 0


@dataclass
class Position:
    """A place between two optimiser steps: all that decides what a run does next, apart from what its networks are.

    Attributes:
        stage: number of the stage in progress.
        is_divided: the stage's division is made.
        is_trained: the stage's training is done; what is left is its validation.
        epochs_done: stages that were validated: the step of every record but the loss.
        seconds: run time until the last save.
        steps: by network, `A+B` where they step together.
    """

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

    @classmethod
    def restored(cls, values: dict[str, Any]) -> Position:
        """Return the place that `dataclasses.asdict` has made plain values of."""
        return cls(**{**values, "steps": {name: Steps(**steps) for name, steps in values["steps"].items()}})


class Pauses:
    """Says, in all of a run's processes alike, when it is to be saved and when it is to end.

    Args:
        minutes: between saves.
        interruption: whether this process was asked to end.
        processes: those of the run.
    """

    def __init__(self, minutes: float, interruption: Interruption, processes: Processes) -> None:
        self._seconds, self._interruption, self._processes = 60 * minutes, interruption, processes
        self.taken()

    def is_due(self) -> bool:
        """Tell whether to save now."""
        asked = self._interruption.requested is not None or time.monotonic() >= self._next
        return self._processes.any(asked)

    def taken(self) -> None:
        """Begin to wait for the next one."""
        self._next = time.monotonic() + self._seconds

    def check(self) -> None:
        """Raise `Stopped` if any process was asked to end."""
        if self._processes.any(self._interruption.requested is not None):
            self._interruption.ask()
        self._interruption.check()


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

    def left(self, position: Position) -> tuple[float, float]:
        """Return about how many seconds are left of the stage in progress, and of the run with its test."""
        ranking, division = self.last.get("ranking", 0.0), self.last.get("division", 0.0)

        def of(kind: str) -> float:
            steps = self._turns.get(kind, 0) * self.sizes.get(kind, self._steps)
            return steps * self.seconds(kind) + (division if kind in (CLEAN, NOISY) else 0.0) + ranking

        kind, later = self._kinds[position.stage], self._kinds[position.stage + 1 :]
        done = sum(steps.batches for steps in position.steps.values())
        here = max(0.0, of(kind) - done * self.seconds(kind) - (division if position.is_divided else 0.0))
        return here, here + sum(map(of, later)) + ranking

    def left_in_words(self, position: Position, about: str = "") -> str:
        """Return what `left` does, for people; `about` stands before the run's seconds if all of its work is known."""
        of_stage, of_run = self.left(position)
        how = about if {"division", "ranking"} <= self.last.keys() else "at least "
        return f"{duration(of_stage)} of the epoch, {how}{duration(of_run)} of the run"

    def first_word(self, position: Position, module: str) -> str:
        """Return a line on what a step takes and what that means for the run, once after some steps; else ""."""
        count, seconds = sum(map(len, self.taken.values())), sum(map(sum, self.taken.values()))
        is_due = (count >= FIRST_STEPS and seconds >= FIRST_SECONDS) or seconds >= LONGEST_WAIT
        if self._is_told or not is_due:
            return ""
        self._is_told = True
        step = duration(self.seconds(self._kinds[position.stage]))
        line = f"a step takes about {step} here; left are {self.left_in_words(position, 'about ')}"
        if self.left(position)[1] > LONG and module not in ("VSE", "GPO"):
            line += "; much faster: a GPU, --module_name VSE or GPO, or a recipe of the embedded data (recipes/)"
        return line
