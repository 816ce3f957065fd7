"""An epoch's pass over its batches: of each network in turn or side by side, paused to be saved, gone on with later."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from data_utils.batch import Batch
from data_utils.precomputed import PrecomputedSplit
from runtime.errors import InputError
from runtime.log import HeldLog
from training.files import RunFiles
from training.network import Network, NotFinite
from training.pace import Learnt
from training.running import Running
from training.side_by_side import is_possible, run_side_by_side

T = TypeVar("T")


@dataclass(frozen=True)
class Aside(Generic[T]):
    """What work in a fork comes back with: its result, what it had to log, the network's place and its new state."""

    result: T
    held: list[Any]
    share: dict[str, Any]
    state: dict[str, Any] | None
    learnt: Learnt


class Passes:
    """Goes over batches with the networks of a run.

    Args:
        running: the run.
        files: where a step that is not finite is put down.
        save: saves the run's state.
    """

    def __init__(self, running: Running, files: RunFiles, save: Callable[[], None]) -> None:
        self._running, self._files, self._save = running, files, save

    def walk(self, work: Callable[[Network], bool], groups: Sequence[Sequence[Network]]) -> None:
        """Do an epoch's work of every network, group after group, saving when a pause is due.

        Args:
            work: does what is left of a network's epoch until a pause is due; tells whether nothing is left.
            groups: networks whose work is independent.
        """
        in_turn = [[network] for group in groups for network in group]
        for group in groups if self._goes_side_by_side() else in_turn:
            while not all(self.each(work, group, trains=True)):
                self._running.check_interruption()
                self._save()
        self._running.position.end_pass()

    def each(self, work: Callable[[Network], T], networks: Sequence[Network], *, trains: bool = False) -> list[T]:
        """Do independent work of each network, side by side if asked for and possible; `trains`: it changes them."""
        if len(networks) < 2 or not self._goes_side_by_side():
            return [work(network) for network in networks]
        running = self._running

        def in_a_fork(line: int, network: Network) -> Aside[T]:
            running.log = held = HeldLog(line)  # type: ignore[assignment]
            result = work(network)
            share, state = running.position.share(network.name), network.state() if trains else None
            return Aside(result, held.held, share, state, running.pace.learnt)

        found = []
        tasks = [partial(in_a_fork, line, network) for line, network in enumerate(networks)]
        asides = run_side_by_side(tasks, running.interruption)
        for network, aside in zip(networks, asides, strict=True):
            running.log.replay(aside.held)
            running.position.take(network.name, aside.share)
            if aside.state is not None:
                network.restore(aside.state)
            found.append(aside.result)
        running.pace.learnt = asides[0].learnt
        return found

    def _goes_side_by_side(self) -> bool:
        return self._running.settings.side_by_side and is_possible(self._running.device)

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
            kind: of work, for the run's pace.
            split: whose pairs the batches name; None: the training pairs.

        Raises:
            InputError: a loss or gradient is not finite, and `--on_nan stop`.
        """
        running = self._running
        for network in networks:
            network.matcher.train()
        name, position, log_step = "+".join(n.name for n in networks), running.position, running.settings.log_step
        done, losses = position.batches.get(name, 0), list(position.losses.get(name, []))
        own = [name, *(n.name for n in networks)]
        left = partial(running.pace.left_in_words, position, own)
        progress = running.log.progress(title, sum(len(b) for b in batches), every=log_step, left=left)
        progress.skip(sum(len(b) for b in batches[:done]))
        running.pace.learnt.steps[kind] = len(batches)
        began = time.monotonic()
        for number, batch in enumerate(running.load(batches[done:], split), start=done + 1):
            before = [network.before_step() for network in networks]
            try:
                losses.append(one_step(batch))
            except NotFinite as fault:
                self._broken(fault, title, number, networks, before, batch)
            position.steps_done[name] = position.steps_done.get(name, 0) + 1
            loss = losses[-1] if losses else None
            if number % log_step == 0 or number == len(batches):
                self._record_loss(name, losses)
                losses = []
            position.batches[name], position.losses[name] = number, losses
            began, earlier = time.monotonic(), began
            running.pace.took(kind, began - earlier)
            if word := running.pace.first_word(position, own, running.config.matcher.module_name):
                running.log.at_once(word)
            progress.advance(len(batch), loss)
            if number < len(batches) and running.pause_is_due():
                break
        progress.close()
        return position.batches.get(name, 0) == len(batches)

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
        where, skips = f"{fault} at batch {number} of {title}", self._running.settings.on_nan == "skip"
        for network, earlier in zip(networks, before, strict=True):
            network.undo_forward(earlier, dropout=not skips)
        if skips:
            self._running.log.say(f"  warning: {where}; the step is skipped")
            return
        states = [network.state() for network in networks]
        path = self._files.snapshot({"title": title, "batch": number, "pairs": batch.index.cpu(), "networks": states})
        raise InputError(
            f"{where}; {path} holds the networks before that step and the pairs of its batch; lower --learning_rate, "
            "or go on past it with --on_nan skip --resume"
        )

    def _record_loss(self, name: str, losses: list[float]) -> None:
        """Record the mean loss of the last steps; nothing if all were skipped."""
        if losses:
            position = self._running.position
            where = {"event": "loss", "epoch": position.epochs_done, "network": name}
            self._running.log.scalars(position.steps_done[name], {f"loss/{name}": float(np.mean(losses))}, **where)
