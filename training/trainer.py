"""The loop all methods share: warm up, divide, train both networks on the division of their peer, validate, test.

What differs between methods is asked of their `Method` (methods/blocks/method.py), training/network.py takes the steps.
A run is a list of stages. Between any two optimiser steps all that decides what comes next is in `position`, the
networks, the last divisions and the best result so far: that is what is saved, and what a resumed run starts from.
Legend: B pairs of a batch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from data_utils.batch import Batch
from data_utils.loaders import MIN_BATCH, load, load_forever, shuffled_batches
from data_utils.precomputed import PrecomputedSplit
from evaluation import Retrieval, result_table, retrieval, similarities, with_mean
from models.precision import prepare_scoring
from runtime.checkpoint import load_checkpoint, save_checkpoint, write_json
from runtime.device import choose_device
from runtime.errors import InputError
from runtime.interruption import Interruption, Stopped
from runtime.lock import FolderLock
from runtime.log import HeldLog, RunLog
from runtime.seed import generator
from training.config import RunConfig
from training.data import RunData
from training.division import Division, divide_pairs
from training.network import Network, NotFinite, build_networks, load_weights
from training.optim import LR_RULES, set_learning_rate
from training.pause import Pauses
from training.position import Position
from training.reports import check_flat, described, differing_settings, introduction, record_division, results
from training.saved_state import SavedState
from training.side_by_side import is_possible, run_side_by_side
from training.step import Part, share_of_hardest_kept, soft_labels, train_step
from training.warmup import warm_up_alone, warm_up_together
from vocab import word_vectors

T = TypeVar("T")

BEST = "checkpoint_dev_best.pth.tar"
WARMED = "checkpoint_warmup.pth.tar"
BROKEN = "not_finite.pth.tar"

SHORTLIST_CHECK = 10
"""Every so many records of the loss `--negative_shortlist` is compared with all pairs."""


@dataclass(frozen=True)
class Stage:
    """A warm-up epoch, an epoch, or the validation of what a run starts from (`start`)."""

    kind: str
    epoch: int
    title: str
    is_last: bool
    """Of its kind: it is always validated."""


@dataclass(frozen=True)
class Aside(Generic[T]):
    """What work in a fork comes back with: its result, what it had to log, the network's place and its new state."""

    result: T
    held: list[Any]
    share: dict[str, Any]
    state: dict[str, Any] | None


class Trainer:
    """Train as `config` says and write everything into `folder`; `resume` goes on from the state saved there.

    Raises:
        InputError: what the run is to start or go on from does not fit it, or another process writes into the folder.
    """

    def __init__(self, config: RunConfig, data: RunData, folder: Path, *, resume: bool = False) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.settings = config.training
        self.lock = FolderLock(folder)
        self.device = choose_device(self.settings.gpu)
        self.networks = build_networks(config, data.shape, self.device)
        self.best: dict[str, Any] | None = None
        self.divisions: dict[str, Division] = {}  # the last ones, by network
        self.unsaved: dict[str, dict[str, Any]] = {}  # checkpoints that could not be written yet, by file name
        self.position = Position()
        self.interruption = Interruption()
        self.pauses = Pauses(self.settings.save_minutes, self.interruption)
        self.saved = SavedState(folder)
        remarks, log_size = self._resume() if resume else self._start()
        self.started = time.monotonic() - self.position.seconds
        remarks += prepare_scoring([n.matcher for n in self.networks], config.scoring, self.device)
        self.log = RunLog(folder, log_size)
        for line in remarks:
            self.log.say(line)

    def train(self) -> dict[str, Any]:
        """Run the whole recipe, or what is left of it; return the content of results.json.

        Raises:
            Stopped: a signal asked for the end; the state is saved.
        """
        with self.interruption.caught():
            try:
                if not self.saved.exists():
                    self._introduce()
                for stage in self.stages()[self.position.stage :]:
                    self.do(stage)
                return self.test()
            except Stopped:
                self.save_state()
                raise

    def _introduce(self) -> None:
        write_json(self.folder / "config.json", described(self.config, self.data))
        for line in introduction(self.config, self.data, self.device, self.folder):
            self.log.say(line)
        self.save_state()

    def stages(self) -> list[Stage]:
        """Return everything between the start and the test, in order."""
        settings = self.settings
        stages = [Stage("start", 0, "start", True)]
        if not settings.saved_model and not settings.warmup_model_path:
            last = settings.warmup_epoch
            stages = [Stage("warm-up", e, f"warm-up {e + 1}/{last}", e + 1 == last) for e in range(last)]
        last = settings.num_epochs
        return stages + [Stage("epoch", e, f"epoch {e + 1}/{last}", e + 1 == last) for e in range(last)]

    def do(self, stage: Stage) -> None:
        """Do a stage, or what is left of it, and save."""
        if not self.position.is_trained:
            if stage.kind == "warm-up":
                self.warm_up(stage.epoch)
            elif stage.kind == "epoch":
                self.set_learning_rate(stage.epoch)
                if not self.position.is_divided:
                    self.divide(stage.epoch)
                    self.position.is_divided = True
                    self._save_if_due()
                self.train_epochs(stage.epoch, self.divisions)
            self.position.is_trained = True
            self._save_if_due()
        self.validate(stage.title, is_last=stage.is_last)
        if stage.kind == "warm-up" and stage.is_last:
            self.save(WARMED)
        self.position.next_stage()
        self.interruption.check()
        self.save_state()

    # -- warm-up ------------------------------------------------------------------------------------------------

    def warm_up(self, epoch: int) -> None:
        """Train one warm-up epoch with the mean hinge, on all pairs or on those of small loss."""
        settings, title = self.settings, f"warm-up {epoch + 1}"
        everything = np.arange(len(self.data.train))
        if settings.warmup_type == "co_teaching":
            batches = self._batches(everything, "warm-up", epoch)
            together = partial(warm_up_together, self.networks, settings=settings)
            self._walk(lambda _: self._run(title, self.networks, batches, together), [self.networks[:1]])
            return

        def alone(network: Network) -> bool:
            batches = self._batches(everything, "warm-up", network.name, epoch)
            one_step = partial(warm_up_alone, network, settings=settings)
            return self._run(f"{title} {network.name}", [network], batches, one_step)

        self._walk(alone, [self.networks])

    # -- division -----------------------------------------------------------------------------------------------

    def divide(self, epoch: int) -> dict[str, Division]:
        """Let each network divide the training pairs; return its division by its name, and record how good it was.

        Where the method wants no new division in this epoch, the last one stands.
        """
        dividing = [network for network in self.networks if network.method.divides]
        if epoch and not all(network.method.divides_in(epoch) for network in dividing):
            return self.divisions
        found = self._each(partial(self._divide_by, epoch=epoch), dividing, trains=True)
        self.divisions = {network.name: division for network, division in zip(dividing, found, strict=True)}
        is_matched = self.data.train.is_matched if self.data.truth_is_known else None
        for name, division in self.divisions.items():
            record_division(self.log, self.position.epochs_done, name, division, is_matched)
        return self.divisions

    def _divide_by(self, network: Network, epoch: int) -> Division:
        progress = self.log.progress(f"division {epoch + 1} {network.name}", len(self.data.train))

        def advance(pairs: int) -> None:
            progress.advance(pairs)
            self.interruption.check()

        division = divide_pairs(
            network.matcher,
            network.method,
            self.data.train,
            batch_size=self.settings.batch_size,
            generator=self._generator("division"),
            device=self.device,
            workers=self.settings.workers,
            advance=advance,
        )
        progress.close()
        return division

    # -- training -----------------------------------------------------------------------------------------------

    def pairs(self) -> Iterator[tuple[Network, Network]]:
        """Yield every network in training with its peer, which is itself without co-training."""
        yield from zip(self.networks, reversed(self.networks), strict=True)

    def set_learning_rate(self, epoch: int) -> None:
        """Apply `--lr_rule`."""
        factor = LR_RULES[self.settings.lr_rule](epoch, self.settings.num_epochs, self.settings.lr_update)
        for network in self.networks:
            set_learning_rate(network.optimiser, self.settings.learning_rate * factor)

    def hardness(self, epoch: int) -> float:
        """Return how hard this epoch's negatives are: 0 their mean, 1 the hardest."""
        if self.settings.negatives == "anneal":
            return min(1.0, epoch / self.settings.anneal_epochs)
        return 1.0 if self.settings.negatives == "hardest" else 0.0

    def trains_noisy(self, epoch: int) -> bool:
        """Tell whether the noisy side is trained in this epoch, if there is any."""
        is_wanted = all(network.method.trains_noisy for network in self.networks)
        return is_wanted and epoch >= self.settings.noisy_start * self.settings.num_epochs

    def train_epochs(self, epoch: int, divisions: dict[str, Division]) -> None:
        """Train every network for one epoch on the division of its peer.

        One after the other where labels need the peer: the second then learns from what the first has become.
        """
        peers = {student.name: peer for student, peer in self.pairs()}

        def train(student: Network) -> bool:
            peer = peers[student.name]
            return self.train_epoch(student, peer, epoch, divisions.get(peer.name))

        has_noisy = self.trains_noisy(epoch)
        in_turn = any(network.method.consults_peer(has_noisy) for network in self.networks)
        self._walk(train, [[network] for network in self.networks] if in_turn else [self.networks])

    def train_epoch(self, student: Network, peer: Network, epoch: int, division: Division | None) -> bool:
        """Train one network for one epoch, or what is left of it, on the division of its peer (None: on all pairs).

        Returns:
            Whether the epoch is done, and not just paused.
        """
        total = len(self.data.train)
        probability = np.ones(total) if division is None else division.probability
        is_clean = np.ones(total, dtype=bool) if division is None else division.is_clean
        clean, noisy = np.flatnonzero(is_clean), np.flatnonzero(~is_clean)
        if len(clean) < MIN_BATCH:
            self.log.say(f"  warning: {peer.name} finds no clean side; {student.name} is not trained this epoch")
            return True
        settings, name = self.settings, student.name
        done = self.position.batches.get(name, 0)
        batches = self._batches(clean, "clean", name, epoch)
        noisy_batches: Iterator[Batch | None] = repeat(None)
        if self.trains_noisy(epoch) and len(noisy) >= MIN_BATCH:
            noisy_batches = load_forever(
                self.data.train,
                noisy,
                settings.batch_size,
                self._generator("noisy", name, epoch),
                settings.workers,
                window=settings.length_window,
                device=self.device,
                skip=done,
            )
        hardness = self.hardness(epoch)
        chances = torch.from_numpy(probability).float()
        steps = count(done + 1)

        def one_step(batch: Batch) -> float:
            other = next(noisy_batches)
            other = None if other is None else other.to(self.device)
            labels = soft_labels(student, peer, batch, other, chances[batch.index.cpu()].to(self.device))
            parts = [Part(batch, labels.clean)]
            if other is not None and labels.noisy is not None:
                parts.append(Part(other, labels.noisy, labels.noisy_kept))
            if settings.negative_shortlist and hardness == 1.0:
                self._check_shortlist(student, parts[0], next(steps))
            return train_step(
                student, parts, hardness, grad_clip=settings.grad_clip, shortlist=settings.negative_shortlist
            )

        return self._run(f"epoch {epoch + 1} {name}", [student], batches, one_step)

    def _walk(self, work: Callable[[Network], bool], groups: list[list[Network]]) -> None:
        """Do an epoch's work of every network, group after group, saving when a pause is due.

        Args:
            work: does what is left of a network's epoch until a pause is due; tells whether nothing is left.
            groups: networks whose work is independent.
        """
        in_turn = [[network] for group in groups for network in group]
        for group in groups if self._goes_side_by_side() else in_turn:
            while not all(self._each(work, group, trains=True)):
                self.interruption.check()
                self.save_state()

    def _each(self, work: Callable[[Network], T], networks: Sequence[Network], *, trains: bool = False) -> list[T]:
        """Do independent work of each network, side by side if asked for and possible; `trains`: it changes them."""
        if len(networks) < 2 or not self._goes_side_by_side():
            return [work(network) for network in networks]

        def in_a_fork(line: int, network: Network) -> Aside[T]:
            self.log = held = HeldLog(line)  # type: ignore[assignment]
            result = work(network)
            return Aside(result, held.held, self.position.share(network.name), network.state() if trains else None)

        found = []
        tasks = [partial(in_a_fork, line, network) for line, network in enumerate(networks)]
        for network, aside in zip(networks, run_side_by_side(tasks, self.interruption), strict=True):
            self.log.replay(aside.held)
            self.position.take(network.name, aside.share)
            if aside.state is not None:
                network.restore(aside.state)
            found.append(aside.result)
        return found

    def _goes_side_by_side(self) -> bool:
        return self.settings.side_by_side and is_possible(self.device)

    def _run(
        self, title: str, networks: list[Network], batches: list[Tensor], one_step: Callable[[Batch], float]
    ) -> bool:
        """Walk over what is left of an epoch's batches until a pause is due; tell whether nothing is left."""
        for network in networks:
            network.matcher.train()
        name, position = "+".join(n.name for n in networks), self.position
        done, losses = position.batches.get(name, 0), list(position.losses.get(name, []))
        progress = self.log.progress(title, sum(len(b) for b in batches))
        progress.advance(sum(len(b) for b in batches[:done]))
        ready = load(self.data.train, batches[done:], self.settings.workers, device=self.device)
        for number, batch in enumerate(ready, start=done + 1):
            drawn = [network.dropout.get_state() for network in networks]
            try:
                losses.append(one_step(batch.to(self.device)))
            except NotFinite as fault:
                self._broken(fault, networks, drawn, batch, title, number)
            position.steps_done[name] = position.steps_done.get(name, 0) + 1
            progress.advance(len(batch), losses[-1] if losses else None)
            if number % self.settings.log_step == 0 or number == len(batches):
                self._record_loss(name, losses)
                losses = []
            position.batches[name], position.losses[name] = number, losses
            if number < len(batches) and self.pauses.is_due():
                break
        progress.close()
        return position.batches.get(name, 0) == len(batches)

    def _broken(
        self, fault: NotFinite, networks: list[Network], drawn: list[Tensor], batch: Batch, title: str, number: int
    ) -> None:
        """Say what `--on_nan` wants said of a step whose loss or gradient is not finite; nothing was updated.

        Raises:
            InputError: `--on_nan stop`.
        """
        where = f"{fault} at batch {number} of {title}"
        if self.settings.on_nan == "skip":
            self.log.say(f"  warning: {where}; the step is skipped")
            return
        states = [{**network.state(), "dropout": before} for network, before in zip(networks, drawn, strict=True)]
        content = {"title": title, "batch": number, "pairs": batch.index.cpu(), "networks": states}
        save_checkpoint(self.folder / BROKEN, content)
        raise InputError(
            f"{where}; {self.folder / BROKEN} holds the networks before that step and the pairs of its batch; lower "
            "--learning_rate, or go on past it with --on_nan skip --resume"
        )

    def _check_shortlist(self, network: Network, part: Part, number: int) -> None:
        """Now and then, record which share of the hardest negatives `--negative_shortlist` keeps."""
        if number % (SHORTLIST_CHECK * self.settings.log_step) != 1:
            return
        share = share_of_hardest_kept(network, part, self.settings.negative_shortlist)
        values = {f"negative_shortlist/{network.name}/share_kept": share}
        step = self.position.steps_done.get(network.name, 0) + 1
        self.log.scalars(step, values, event="shortlist", network=network.name)
        self.log.say(f"  {network.name}: the shortlist keeps {100 * share:.1f} % of the hardest negatives")

    def _record_loss(self, name: str, losses: list[float]) -> None:
        """Record the mean loss of the last steps; nothing if all were skipped."""
        if losses:
            where = {"event": "loss", "epoch": self.position.epochs_done, "network": name}
            values = {f"loss/{name}": float(np.mean(losses))}
            self.log.scalars(self.position.steps_done[name], values, **where)

    # -- validation, test ---------------------------------------------------------------------------------------

    def evaluate(self, split: PrecomputedSplit) -> dict[str, Retrieval]:
        """Rank a split with every network and with the mean of their scores."""
        found = self._each(lambda network: similarities(network.matcher, split, self.device), self.networks)
        sims = with_mean({network.name: own for network, own in zip(self.networks, found, strict=True)})
        check_flat(self.log, sims)
        return {name: retrieval(matrix, split.image_of_caption) for name, matrix in sims.items()}

    def validate(self, title: str, *, is_last: bool) -> None:
        """Rank the dev split when its turn has come, and keep the networks if their mean is the best so far."""
        self.position.epochs_done += 1
        done = self.position.epochs_done
        if done % self.settings.validate_every and not is_last:
            return
        ranked = self.evaluate(self.data.dev)
        final = list(ranked)[-1]
        seconds = time.monotonic() - self.started
        self.log.say(f"{title} ({seconds:.0f} s)\n{result_table('dev', ranked)}")
        values = {f"dev/{name}/rSum": r.r_sum for name, r in ranked.items()}
        values["learning_rate"] = self.networks[0].optimiser.param_groups[0]["lr"]
        self.log.scalars(done, values, event="dev", title=title, results={n: r.as_dict() for n, r in ranked.items()})
        if self.best is None or ranked[final].r_sum > self.best["rSum"]:
            self.best = {"rSum": ranked[final].r_sum, "epoch": done, "title": title}
            self.best["results"] = {name: r.as_dict() for name, r in ranked.items()}
            self.save(BEST)

    def test(self) -> dict[str, Any]:
        """Rank the test split once, with the networks that were best on dev, and write results.json."""
        assert self.best is not None
        self._save_unsaved()
        if self.unsaved:
            raise InputError(f"{', '.join(self.unsaved)} cannot be written to {self.folder}; make room, then --resume")
        path = self.folder / BEST
        load_weights(self.networks, load_checkpoint(path), path, self.data, self.config)
        ranked = self.evaluate(self.data.test)
        self.log.say(f"test, networks of {self.best['title']} (best on dev)\n{result_table('test', ranked)}")
        record = results(self.config, self.data, self.best, ranked, seconds=time.monotonic() - self.started)
        write_json(self.folder / "results.json", record)
        self.saved.clear()
        self.log.say(f"written to {self.folder}: results.json, {BEST}, metrics.jsonl, tensorboard/")
        self.log.close()
        self.lock.release()
        return record

    # -- files --------------------------------------------------------------------------------------------------

    def save(self, name: str) -> None:
        """Write a checkpoint of all networks; if that fails, say so, keep it, and try again at every save."""
        content = {
            "epoch": self.position.epochs_done,
            "config": described(self.config, self.data),
            "vocabulary_digest": self.data.vocabulary.digest(),
            "networks": [n.matcher.state_dict() for n in self.networks],
            "chosen_on": "dev" if name == BEST else None,
            "dev": self.best["results"] if self.best else {},
        }
        self.unsaved[name] = content
        self._save_unsaved()

    def _save_unsaved(self) -> None:
        for name, content in list(self.unsaved.items()):
            try:
                save_checkpoint(self.folder / name, content)
                del self.unsaved[name]
            except InputError as error:
                self.unsaved[name] = copy.deepcopy(content)  # training goes on and changes the weights
                self.log.say(f"warning: {error}; training goes on, and the next save tries again")

    def save_state(self) -> None:
        """Save all that the run needs to go on from here; if that fails, say so and go on.

        While a checkpoint waits to be written, the state before its validation is the one to go on from.
        """
        self.pauses.taken()
        self._save_unsaved()
        if self.unsaved:
            return
        self.position.seconds = time.monotonic() - self.started
        content = {
            "config": described(self.config, self.data),
            "data_digest": self.data.digest(),
            "position": self.position.as_dict(),
            "networks": [network.state() for network in self.networks],
            "divisions": {name: division.as_state() for name, division in self.divisions.items()},
            "best": self.best,
            "log": self.log.size(),
        }
        try:
            self.saved.save(content)
        except InputError as error:
            self.log.say(f"warning: {error}; training goes on, and the next save tries again")

    def _save_if_due(self) -> None:
        if self.pauses.is_due():
            self.save_state()

    def _resume(self) -> tuple[list[str], dict[str, int]]:
        """Go back to the saved state; return what is to be said, and how much of the logs belongs to it.

        Raises:
            InputError: no whole state, or one of other settings or data.
        """
        content, remarks = self.saved.load()
        differing = differing_settings(content["config"], described(self.config, self.data))
        if differing:
            raise InputError(
                f"--resume: {self.folder} was started with other settings: {differing}; give the same flags"
            )
        if content["data_digest"] != self.data.digest():
            raise InputError(f"--resume: the training pairs are not those that {self.folder} was started with")
        for network, state in zip(self.networks, content["networks"], strict=True):
            network.restore(state)
        self.position = Position(**content["position"])
        self.divisions = {name: Division.from_state(state) for name, state in content["divisions"].items()}
        self.best = content["best"]
        stages = self.stages()
        where = stages[self.position.stage].title if self.position.stage < len(stages) else "the test"
        return [*remarks, f"resumed in {self.folder} at {where}"], content["log"]

    def _start(self) -> tuple[list[str], None]:
        """Load what the run is to start from, if anything; return what is to be said."""
        path, vectors = self.settings.saved_model or self.settings.warmup_model_path, self.config.words.word_vectors
        if path is not None:
            load_weights(self.networks, load_checkpoint(path), path, self.data, self.config)
        if vectors is None:
            return [], None
        found = word_vectors.load(Path(vectors), self.data.vocabulary, self.config.matcher.word_dim)
        for network in self.networks:
            rows, is_given = torch.from_numpy(found.rows), torch.from_numpy(found.is_given)
            network.matcher.caption_encoder.set_word_vectors(rows, is_given)
        return [found.report(vectors)], None

    def _batches(self, pairs: np.ndarray, *purpose: str | int) -> list[Tensor]:
        """Shuffle pair numbers into an epoch's batches."""
        settings, shuffle = self.settings, self._generator(*purpose)
        return shuffled_batches(
            pairs, settings.batch_size, shuffle, lengths=self.data.train.lengths, window=settings.length_window
        )

    def _generator(self, *purpose: str | int) -> torch.Generator:
        return generator(self.settings.seed, *purpose)
