"""The loop all methods share: warm up, divide, train both networks on the division of their peer, validate, test.

What differs between methods is asked of their `Method` (methods/blocks/method.py). A run is a list of stages; between
any two optimiser steps all that decides what comes next is in `Trainer.state`: that is what is saved, and what a
resumed run starts from.
Legend: B pairs of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.loaders import MIN_BATCH, Batch, load_forever
from data_utils.precomputed import PrecomputedSplit
from evaluation import result_table
from models.ensemble import scores_in_turn
from models.matcher import prepare_scoring
from models.ranks import Retrieval, retrieval
from runtime.checkpoint import load_checkpoint
from runtime.distributed import ALONE, Processes, own_device
from runtime.errors import InputError, Stopped
from runtime.log import RunLog
from training import reports
from training.checkpointing import BEST, RESULTS, WARMED, RunFiles, RunState
from training.config import RunConfig
from training.data import RunData
from training.division import Division, PairEvidence, decide, epoch_pairs, gather_evidence
from training.network import (
    LabelledBatch,
    Network,
    build_networks,
    load_start,
    load_weights,
    soft_labels,
    train_step,
    warm_up_step,
)
from training.schedule import CLEAN, NOISY, WARM_UP, Running, Stage, hardness, learning_rate, stages


class Trainer:
    """Train as `config` says and write everything into `folder`; `resume` goes on from the state saved there.

    Of several processes each has a trainer; they go through the same steps, and the first one writes.

    Raises:
        InputError: what the run is to start or go on from does not fit it, or another process writes into the folder.
    """

    def __init__(
        self,
        config: RunConfig,
        data: RunData,
        folder: Path,
        *,
        resume: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        if config.training.remove_noise:
            data = data.without_noise()
        self.config, self.data, self.folder, self.processes = config, data, folder, processes
        self.settings = config.training
        self.files = RunFiles(folder, writes=processes.is_first)
        self.device = own_device(self.settings.gpu)
        self.networks = build_networks(config, data.shape, self.device, processes)
        self.state = RunState(self.networks)
        self.running = Running(config, data, self.device, self.state, self.files, processes)
        if resume:
            remarks, log_size = self.files.resume(self.state, reports.described(config, data), data.digest())
            ahead = stages(self.settings)[self.state.stage :]
            remarks += [f"resumed in {folder} at {ahead[0].title if ahead else 'the test'}"]
        else:
            remarks, log_size = load_start(self.networks, data, config), None
        prepare_scoring([n.matcher for n in self.networks], config.scoring, self.device)
        self.running.begin(remarks, log_size)

    @property
    def log(self) -> RunLog:
        """What the run says and records."""
        return self.running.log

    def train(self) -> dict[str, Any]:
        """Run the whole recipe, or what is left of it; return the content of results.json.

        Raises:
            Stopped: a signal asked for the end; the state is saved.
        """
        with self.running.interruption.caught():
            try:
                if not self.files.saved.exists():
                    self.running.introduce()
                for stage in stages(self.settings)[self.state.stage :]:
                    self.do(stage)
                return self.test()
            except Stopped:
                self.running.save()
                raise

    def do(self, stage: Stage) -> None:
        """Do a stage, or what is left of it, and save."""
        if not self.state.is_trained:
            if stage.kind == WARM_UP:
                self.warm_up(stage.epoch)
            elif stage.kind == "epoch":
                for network in self.networks:
                    network.set_learning_rate(learning_rate(self.settings, stage.epoch))
                if not self.state.is_divided:
                    self.divide(stage.epoch)
                    self.state.is_divided = True
                    self.running.save_if_due()
                self.train_epochs(stage.epoch, self.state.divisions)
            self.state.is_trained = True
            self.running.save_if_due()
        self.validate(stage.title)
        if stage.kind == WARM_UP and stage.is_last:
            self.running.checkpoint(WARMED, stage.title)
        self.state.next_stage()
        self.running.check()
        self.running.save()

    # -- warm-up ------------------------------------------------------------------------------------------------

    def warm_up(self, epoch: int) -> None:
        """Train one warm-up epoch with `--loss` over all negatives, on all pairs or on those of small loss."""
        everything, together = np.arange(len(self.data.train)), self.settings.warmup_type == "co_teaching"

        def train(networks: list[Network]) -> bool:
            names = [] if together else [networks[0].name]
            batches = self.running.batches(everything, WARM_UP, *names, epoch)
            one_step = partial(warm_up_step, networks, settings=self.settings)
            return self.running.over(
                " ".join(["warm-up", str(epoch + 1), *names]), networks, batches, one_step, WARM_UP
            )

        self.running.walk(train, [self.networks] if together else [[network] for network in self.networks])

    # -- division -----------------------------------------------------------------------------------------------

    def divide(self, epoch: int) -> dict[str, Division]:
        """Let each network divide the training pairs; return its division by its name, and record how good it was.

        Where the method wants no new division in this epoch, the last one stands.
        """
        began, before = time.monotonic(), self.state.divisions
        dividing = [network for network in self.networks if network.method.divides]
        if not epoch or all(network.method.divides_in(epoch) for network in dividing):
            for network in dividing:
                network.method.share_noisy = before[network.name].share_noisy if network.name in before else None
            evidence = [self._evidence_of(network, epoch) for network in dividing]
            self.state.divisions = {
                network.name: decide(network.method, own, evidence, self.data.train, before.get(network.name))
                for network, own in zip(dividing, evidence, strict=True)
            }
            for name, division in self.state.divisions.items():
                reports.record_division(self.log, self.state.epochs_done, name, division, self.data)
        self.running.pace.last["division"] = time.monotonic() - began
        return self.state.divisions

    def _evidence_of(self, network: Network, epoch: int) -> PairEvidence:
        progress = self.log.progress(f"division {epoch + 1} {network.name}", len(self.data.train))

        def advance(pairs: int) -> None:
            progress.advance(pairs)
            if self.processes.count == 1:  # others would wait for what this one has found
                self.running.interruption.check()

        found = gather_evidence(
            network.matcher,
            network.method,
            self.data.train,
            batch_size=self.settings.step_size,
            generator=self.running.generator("division"),
            device=self.device,
            workers=self.settings.workers,
            advance=advance,
            processes=self.processes,
        )
        progress.close()
        self.running.check()
        return found

    # -- training -----------------------------------------------------------------------------------------------

    def students_and_peers(self) -> Iterator[tuple[Network, Network]]:
        """Yield every network in training with its peer, which is itself without co-training."""
        yield from zip(self.networks, reversed(self.networks), strict=True)

    def train_epochs(self, epoch: int, divisions: dict[str, Division]) -> None:
        """Train every network for one epoch on the division of its peer; the second network's peer is the first one
        as it is by then, trained in this epoch already."""

        def train(pair: tuple[Network, Network]) -> bool:
            return self.train_epoch(*pair, epoch, divisions.get(pair[1].name))

        self.running.walk(train, list(self.students_and_peers()))

    def train_epoch(self, student: Network, peer: Network, epoch: int, division: Division | None) -> bool:
        """Train one network for one epoch, or what is left of it, on the division of its peer (None: on all pairs).

        Returns:
            Whether the epoch is done, and not just paused.
        """
        pairs, name, running = epoch_pairs(self.data.train, division), student.name, self.running
        student.method.share_noisy = None if division is None else division.share_noisy
        if len(pairs.clean) < MIN_BATCH:
            self.log.say(f"  warning: {peer.name} finds no clean side; {name} is not trained this epoch")
            return True
        batches = running.batches(pairs.clean, "clean", name, epoch)
        noisy_batches: Iterator[Batch | None] = repeat(None)
        has_noisy = running.trains_noisy(epoch) and len(pairs.noisy) >= MIN_BATCH
        if has_noisy:
            noisy_batches = load_forever(
                self.data.train,
                pairs.noisy,
                self.settings.step_size,
                running.generator("noisy", name, epoch),
                self.settings.workers,
                device=self.device,
                processes=self.processes,
                skip=self.state.steps_of(name).batches,
            )
        how_hard = hardness(self.settings, epoch)

        def one_step(batch: Batch) -> float:
            other = next(noisy_batches)
            labels = soft_labels(student, peer, batch, other, pairs.probability[batch.index.cpu()].to(self.device))
            parts = [LabelledBatch(batch, labels.clean)]
            if other is not None and labels.noisy is not None:
                parts.append(LabelledBatch(other, labels.noisy, labels.noisy_kept))
            return train_step(student, parts, how_hard, grad_clip=self.settings.grad_clip)

        kind = NOISY if has_noisy else CLEAN
        return running.over(f"epoch {epoch + 1} {name}", [student], batches, one_step, kind, pairs.split)

    # -- validation, test ---------------------------------------------------------------------------------------

    def evaluate(self, split: PrecomputedSplit) -> dict[str, Retrieval]:
        """Rank a split with every network and with the mean of their scores."""
        began = time.monotonic()
        ranked: dict[str, Retrieval] = {}
        matchers = {network.name: network.matcher for network in self.networks}
        for name, sims in scores_in_turn(matchers, split, self.device, self.processes):
            if name in matchers:
                reports.check_flat(self.log, name, sims)
            ranked[name] = retrieval(sims, split.image_of_caption)
            del sims  # or it would be kept while the next one is computed
        self.running.pace.last["ranking"] = time.monotonic() - began
        return ranked

    def validate(self, title: str) -> None:
        """Rank the dev split, and keep the networks if their mean is the best so far."""
        self.state.epochs_done += 1
        done, ranked = self.state.epochs_done, self.evaluate(self.data.dev)
        self.log.say(f"{title} ({self.running.seconds:.0f} s)\n{result_table('dev', ranked)}")
        rate = {"learning_rate": self.networks[0].learning_rate}
        reports.record_ranking(self.log, "dev", done, ranked, rate, title=title)
        r_sum = list(ranked.values())[-1].r_sum
        if self.state.best is None or r_sum > self.state.best["rSum"]:
            named = {name: r.as_dict() for name, r in ranked.items()}
            self.state.best = {"rSum": r_sum, "epoch": done, "title": title, "results": named}
            self.running.checkpoint(BEST, title)

    def test(self) -> dict[str, Any]:
        """Rank the test split once, with the networks that were best on dev, and write results.json."""
        best = self.state.best
        assert best is not None
        self.files.save_unsaved()
        path = self.folder / BEST
        checkpoint = self.processes.told(self.files.unsaved.get(BEST)) or load_checkpoint(path)
        load_weights(self.networks, checkpoint, path, self.data, self.config)
        ranked = self.evaluate(self.data.test)
        self.log.say(f"test, networks of {best['title']} (best on dev)\n{result_table('test', ranked)}")
        if unsaved := self.processes.told(list(self.files.unsaved)):
            raise InputError(
                f"{', '.join(unsaved)} cannot be written to {self.folder}, so that the results above are not saved; "
                "make room, then --resume"
            )
        reports.record_ranking(self.log, "test", best["epoch"], ranked)
        record = reports.results(self.config, self.data, best, ranked, seconds=self.running.seconds)
        self.log.close()  # before the results: with them the run is finished, whatever happens then
        self.files.json(RESULTS, record)
        self.files.finish()
        self.log.say(f"written to {self.folder}: results.json, {BEST}, metrics.jsonl, tensorboard/")
        return record
