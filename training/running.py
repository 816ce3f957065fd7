"""A run in progress: its batches and passes over them, what it says and saves, and when it pauses and ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from data_utils.loaders import Batch, load, load_forever, shuffled_batches
from data_utils.precomputed import PrecomputedSplit
from runtime.distributed import Processes
from runtime.errors import InputError, Interruption
from runtime.log import RunLog
from runtime.seed import generator
from training.checkpointing import BEST, CONFIG, RunFiles, RunState
from training.config import RunConfig
from training.data import RunData
from training.network import Network, NotFinite
from training.reports import described, introduction
from training.schedule import CLEAN, NOISY, WARM_UP, Pace, Pauses, Position, Stage, noisy_side_is_due, stages

T = TypeVar("T")


class Running:
    """What all parts of a run share.

    Attributes:
        state: what is saved and restored.
        processes: those that share the run; all hold the same networks and go through the same batches.
        log: what it says and records.
        interruption: whether it was asked to end.
        pauses: when it is to be saved.
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
        self.pauses = Pauses(self.settings.save_minutes, self.interruption, processes)
        turns = dict.fromkeys((WARM_UP, CLEAN, NOISY), len(state.networks))
        if self.settings.warmup_type == "co_teaching":
            turns[WARM_UP] = 1
        kinds = [self.kind(stage) for stage in stages(self.settings)]
        self.pace = Pace(kinds, ceil(len(data.train) / self.settings.step_size), turns)
        self._began = time.monotonic()

    def begin(self, remarks: Sequence[str], log_size: dict[str, int] | None) -> None:
        """Open the log, of a resumed run with what of it belongs to the state, and say the remarks; of several
        processes one speaks."""
        self._began = time.monotonic() - self.position.seconds
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
        wanted = all(network.method.wants_noisy for network in self.state.networks)
        return wanted and noisy_side_is_due(self.settings, epoch)

    def kind(self, stage: Stage) -> str:
        """Return the kind of a stage's steps."""
        return stage.kind if stage.kind != "epoch" else NOISY if self.trains_noisy(stage.epoch) else CLEAN

    @property
    def position(self) -> Position:
        """Where the run is."""
        return self.state.position

    @property
    def seconds(self) -> float:
        """Run time, that before an interruption included."""
        return time.monotonic() - self._began

    def save(self) -> None:
        """Save all that the run needs to go on from here."""
        self.pauses.taken()
        self.position.seconds = self.seconds
        settings, digest = described(self.config, self.data), self.data.digest()
        self.files.state(self.state, config=settings, data_digest=digest, log=self.log.size())

    def checkpoint(self, name: str, title: str) -> None:
        """Write a checkpoint of all networks, as they are after the stage of that title."""
        content = {
            "epoch": self.position.epochs_done,
            "title": title,
            "config": described(self.config, self.data),
            "vocabulary_digest": self.data.vocabulary.digest(),
            "networks": [n.matcher.state_dict() for n in self.state.networks],
            "chosen_on": "dev" if name == BEST else None,
            "dev": self.state.best["results"] if self.state.best else {},
        }
        self.files.checkpoint(name, content)

    def save_if_due(self) -> None:
        """Save if it is time to, or if the run is to end."""
        if self.pauses.is_due():
            self.save()

    # -- batches of the training pairs ----------------------------------------------------------------------------

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Return a generator of the run's seed for one purpose."""
        return generator(self.settings.seed, *purpose)

    def batches(self, pairs: np.ndarray, *purpose: str | int) -> list[Tensor]:
        """Shuffle pair numbers into an epoch's batches."""
        return shuffled_batches(pairs, self.settings.step_size, self.generator(*purpose))

    def load(self, batches: list[Tensor], split: PrecomputedSplit | None = None) -> Iterator[Batch]:
        """Yield batches of the training pairs, or of another `split`, on the device: this process's share of each."""
        how: dict[str, Any] = {"device": self.device, "processes": self.processes}
        found = load(split or self.data.train, batches, self.settings.workers, **how)
        return (batch.to(self.device) for batch in found)

    def load_forever(self, pairs: np.ndarray, shuffle: torch.Generator, skip: int) -> Iterator[Batch]:
        """Yield batches of `pairs` without end, but for the first `skip`."""
        size, workers = self.settings.step_size, self.settings.workers
        how: dict[str, Any] = {"device": self.device, "processes": self.processes, "skip": skip}
        found = load_forever(self.data.train, pairs, size, shuffle, workers, **how)
        return (batch.to(self.device) for batch in found)

    # -- passes ---------------------------------------------------------------------------------------------------

    def walk(self, work: Callable[[T], bool], items: Sequence[T]) -> None:
        """Do an epoch's work on every item in turn, and save whenever a pause is due.

        Args:
            work: does what is left of it until a pause is due; tells whether nothing is left.
            items: networks, or what stands for them.
        """
        for item in items:
            while not work(item):
                self.pauses.check()
                self.save()
        self.position.end_pass()

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
        steps = self.position.steps_of(name)
        left = partial(self.pace.left_in_words, self.position)
        progress = self.log.progress(title, sum(map(len, batches)), every=log_step, left=left)
        progress.skip(sum(map(len, batches[: steps.batches])))
        self.pace.sizes[kind] = len(batches)
        began, loss = time.monotonic(), None
        for batch in self.load(batches[steps.batches :], split):
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
            if word := self.pace.first_word(self.position, self.config.matcher.module_name):
                self.log.say(word)
            progress.advance(len(batch), loss)
            if not is_last and self.pauses.is_due():
                break
        progress.close()
        return steps.batches == len(batches)

    def _record_loss(self, name: str) -> None:
        """Record the mean loss of the last steps; nothing if all were skipped."""
        steps = self.position.steps_of(name)
        if steps.losses:
            where = {"event": "loss", "epoch": self.position.epochs_done, "network": name}
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
