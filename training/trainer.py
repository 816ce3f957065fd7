"""The loop all methods share: warm up, divide, train both networks on the division of their peer, validate, test.

What differs between methods is asked of their `Method` (methods/blocks/method.py), training/network.py takes the steps.
A run is a list of stages. Between any two optimiser steps all that decides what comes next is in `position`, the
networks, the last divisions and the best result so far: that is what is saved, and what a resumed run starts from.
Legend: B pairs of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_utils.batch import Batch
from data_utils.loaders import MIN_BATCH
from data_utils.precomputed import PrecomputedSplit
from evaluation import Retrieval, result_table, retrieval, similarities, with_mean
from models.precision import prepare_scoring
from runtime.checkpoint import load_checkpoint
from runtime.distributed import ALONE, Processes, own_device
from runtime.errors import InputError, Interruption, Stopped
from runtime.log import RunLog, SilentLog
from training.config import RunConfig
from training.data import RunData
from training.division import Division, decide
from training.epoch_pairs import epoch_pairs
from training.evidence import PairEvidence, gather_evidence
from training.files import BEST, CONFIG, RESULTS, WARMED, RunFiles
from training.network import Network, build_networks, load_weights
from training.optim import set_learning_rate
from training.pace import CLEAN, NOISY, WARM_UP, Pace
from training.passes import Passes
from training.pause import Pauses
from training.position import Position
from training.reports import (
    check_flat,
    described,
    differing_settings,
    introduction,
    record_division,
    record_samples,
    record_settings,
    record_test,
    results,
)
from training.running import Running
from training.side_by_side import is_possible
from training.stages import Stage, hardness, learning_rate, noisy_side_is_due, stages
from training.step import LabelledBatch, share_of_hardest_kept, soft_labels, train_step
from training.warmup import warm_up_alone, warm_up_together
from vocab import word_vectors

SHORTLIST_CHECK = 10
"""Every so many records of the loss `--negative_shortlist` is compared with all pairs."""


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
        self.config, self.data, self.folder = config, data, folder
        self.settings = config.training
        self.files = RunFiles(folder, writes=processes.is_first)
        self.device = own_device(self.settings.gpu)
        self.networks = build_networks(config, data.shape, self.device, processes)
        self.best: dict[str, Any] | None = None
        self.divisions: dict[str, Division] = {}  # the last ones, by network
        interruption = Interruption()
        dev, test = (split.num_images * len(split) for split in (data.dev, data.test))
        side_by_side = self.settings.side_by_side and is_possible(self.device)
        self.running = Running(
            config=config,
            data=data,
            device=self.device,
            networks=self.networks,
            processes=processes,
            log=SilentLog(),
            interruption=interruption,
            pauses=Pauses(self.settings.save_minutes, interruption),
            pace=Pace(self.settings, self.networks, len(data.train), (dev, test), side_by_side),
        )
        self.passes = Passes(self.running, self.files, self.save_state)
        remarks, log_size = self._resume() if resume else self._start()
        self.started = time.monotonic() - self.position.seconds
        remarks += prepare_scoring([n.matcher for n in self.networks], config.scoring, self.device)
        if processes.is_first:
            self.running.log = RunLog(folder, log_size)
        self.files.say = lambda line: self.log.say(line)
        for line in remarks:
            self.log.say(line)

    @property
    def position(self) -> Position:
        """Where the run is."""
        return self.running.position

    @property
    def log(self) -> RunLog:
        """What the run says and records; in a fork, what it will."""
        return self.running.log

    def train(self) -> dict[str, Any]:
        """Run the whole recipe, or what is left of it; return the content of results.json.

        Raises:
            Stopped: a signal asked for the end; the state is saved.
        """
        with self.running.interruption.caught():
            try:
                if not self.files.saved.exists():
                    self._introduce()
                for stage in stages(self.settings)[self.position.stage :]:
                    self.do(stage)
                return self.test()
            except Stopped:
                self.save_state()
                raise

    def _introduce(self) -> None:
        self.files.json(CONFIG, described(self.config, self.data))
        for line in introduction(self.config, self.data, self.device, self.folder):
            self.log.say(line)
        record_settings(self.log, self.config)
        self.save_state()

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
            self.save(WARMED, stage.title)
        self.position.next_stage()
        self.running.check_interruption()
        self.save_state()

    # -- warm-up ------------------------------------------------------------------------------------------------

    def warm_up(self, epoch: int) -> None:
        """Train one warm-up epoch with the mean hinge, on all pairs or on those of small loss."""
        settings, title = self.settings, f"warm-up {epoch + 1}"
        everything = np.arange(len(self.data.train))
        if settings.warmup_type == "co_teaching":
            batches = self.running.batches(everything, "warm-up", epoch)
            together = partial(warm_up_together, self.networks, settings=settings)
            self.passes.walk(
                lambda _: self.passes.over(title, self.networks, batches, together, WARM_UP), [self.networks[:1]]
            )
            return

        def alone(network: Network) -> bool:
            batches = self.running.batches(everything, "warm-up", network.name, epoch)
            one_step = partial(warm_up_alone, network, settings=settings)
            return self.passes.over(f"{title} {network.name}", [network], batches, one_step, WARM_UP)

        self.passes.walk(alone, [self.networks])

    # -- division -----------------------------------------------------------------------------------------------

    def divide(self, epoch: int) -> dict[str, Division]:
        """Let each network divide the training pairs; return its division by its name, and record how good it was.

        Where the method wants no new division in this epoch, the last one stands.
        """
        dividing = [network for network in self.networks if network.method.divides]
        if epoch and not all(network.method.divides_in(epoch) for network in dividing):
            return self.divisions
        for network in dividing:
            earlier = self.divisions.get(network.name)
            network.method.share_noisy = None if earlier is None else earlier.share_noisy
        evidence = self.passes.each(partial(self._evidence_of, epoch=epoch), dividing, trains=True)
        self.divisions = {
            network.name: decide(network.method, own, evidence, self.data.train, self.divisions.get(network.name))
            for network, own in zip(dividing, evidence, strict=True)
        }
        is_matched = self.data.train.is_matched if self.data.truth_is_known else None
        for name, division in self.divisions.items():
            record_division(self.log, self.position.epochs_done, name, division, is_matched)
            record_samples(self.log, self.position.epochs_done, name, division, self.data)
        return self.divisions

    def _evidence_of(self, network: Network, epoch: int) -> PairEvidence:
        timed = self.running.pace.timed_division(self.position, network.name)
        title = f"division {epoch + 1} {network.name}"
        progress = self.log.progress(title, len(self.data.train), left=timed.left_in_words)

        def advance(pairs: int) -> None:
            timed.took(pairs * self.running.processes.count)
            progress.advance(pairs)
            if self.running.processes.count == 1:  # others would wait for what this one has found
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
            processes=self.running.processes,
        )
        timed.took(0)  # what came after the last pair
        progress.close()
        self.running.check_interruption()
        return found

    # -- training -----------------------------------------------------------------------------------------------

    def pairs(self) -> Iterator[tuple[Network, Network]]:
        """Yield every network in training with its peer, which is itself without co-training."""
        yield from zip(self.networks, reversed(self.networks), strict=True)

    def set_learning_rate(self, epoch: int) -> None:
        """Apply `--lr_rule`."""
        for network in self.networks:
            set_learning_rate(network.optimiser, learning_rate(self.settings, epoch))

    def trains_noisy(self, epoch: int) -> bool:
        """Tell whether the noisy side is trained in this epoch, if there is any."""
        wanted = all(network.method.wants_noisy for network in self.networks)
        return wanted and noisy_side_is_due(self.settings, epoch)

    def train_epochs(self, epoch: int, divisions: dict[str, Division]) -> None:
        """Train every network for one epoch on the division of its peer.

        One after the other where labels need the peer: the second then learns from what the first has become.
        """
        peers = {student.name: peer for student, peer in self.pairs()}

        def train(student: Network) -> bool:
            peer = peers[student.name]
            return self.train_epoch(student, peer, epoch, divisions.get(peer.name))

        has_noisy = self.trains_noisy(epoch)
        in_turn = any(network.method.asks_peer(has_noisy) for network in self.networks)
        self.passes.walk(train, [[network] for network in self.networks] if in_turn else [self.networks])

    def train_epoch(self, student: Network, peer: Network, epoch: int, division: Division | None) -> bool:
        """Train one network for one epoch, or what is left of it, on the division of its peer (None: on all pairs).

        Returns:
            Whether the epoch is done, and not just paused.
        """
        pairs = epoch_pairs(self.data.train, division)
        student.method.share_noisy = None if division is None else division.share_noisy
        if len(pairs.clean) < MIN_BATCH:
            self.log.say(f"  warning: {peer.name} finds no clean side; {student.name} is not trained this epoch")
            return True
        settings, name = self.settings, student.name
        done = self.position.batches.get(name, 0)
        batches = self.running.batches(pairs.clean, "clean", name, epoch, split=pairs.split)
        noisy_batches: Iterator[Batch | None] = repeat(None)
        has_noisy = self.trains_noisy(epoch) and len(pairs.noisy) >= MIN_BATCH
        if has_noisy:
            noisy_batches = self.running.load_forever(pairs.noisy, self.running.generator("noisy", name, epoch), done)
        how_hard = hardness(self.settings, epoch)
        steps = count(done + 1)

        def one_step(batch: Batch) -> float:
            other = next(noisy_batches)
            labels = soft_labels(student, peer, batch, other, pairs.probability[batch.index.cpu()].to(self.device))
            parts = [LabelledBatch(batch, labels.clean, no_negatives=pairs.no_negatives(batch.index))]
            if other is not None and labels.noisy is not None:
                parts.append(LabelledBatch(other, labels.noisy, labels.noisy_kept, pairs.no_negatives(other.index)))
            if settings.negative_shortlist and how_hard == 1.0:
                self._check_shortlist(student, parts[0], next(steps))
            return train_step(
                student, parts, how_hard, grad_clip=settings.grad_clip, shortlist=settings.negative_shortlist
            )

        kind = NOISY if has_noisy else CLEAN
        return self.passes.over(f"epoch {epoch + 1} {name}", [student], batches, one_step, kind, pairs.split)

    def _check_shortlist(self, network: Network, part: LabelledBatch, number: int) -> None:
        """Now and then, record which share of the hardest negatives `--negative_shortlist` keeps."""
        if number % (SHORTLIST_CHECK * self.settings.log_step) != 1:
            return
        share = share_of_hardest_kept(network, part, self.settings.negative_shortlist)
        values = {f"negative_shortlist/{network.name}/share_kept": share}
        step = self.position.steps_done.get(network.name, 0) + 1
        self.log.scalars(step, values, event="shortlist", network=network.name)
        self.log.say(f"  {network.name}: the shortlist keeps {100 * share:.1f} % of the hardest negatives")

    # -- validation, test ---------------------------------------------------------------------------------------

    def evaluate(self, split: PrecomputedSplit) -> dict[str, Retrieval]:
        """Rank a split with every network and with the mean of their scores."""
        processes, began = self.running.processes, time.monotonic()
        found = self.passes.each(
            lambda network: similarities(network.matcher, split, self.device, processes), self.networks
        )
        sims = with_mean({network.name: own for network, own in zip(self.networks, found, strict=True)})
        check_flat(self.log, sims)
        self.running.pace.ranked(split.num_images * len(split), time.monotonic() - began)
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
            self.save(BEST, title)

    def test(self) -> dict[str, Any]:
        """Rank the test split once, with the networks that were best on dev, and write results.json."""
        assert self.best is not None
        self.files.save_unsaved()
        path, processes = self.folder / BEST, self.running.processes
        best = processes.told(self.files.unsaved.get(BEST)) or load_checkpoint(path)
        load_weights(self.networks, best, path, self.data, self.config)
        ranked = self.evaluate(self.data.test)
        self.log.say(f"test, networks of {self.best['title']} (best on dev)\n{result_table('test', ranked)}")
        if unsaved := processes.told(list(self.files.unsaved)):
            raise InputError(
                f"{', '.join(unsaved)} cannot be written to {self.folder}, so that the results above are not saved; "
                "make room, then --resume"
            )
        record_test(self.log, self.best["epoch"], ranked)
        record = results(self.config, self.data, self.best, ranked, seconds=time.monotonic() - self.started)
        self.log.close()  # before the results: with them the run is finished, whatever happens then
        self.files.json(RESULTS, record)
        self.files.finish()
        self.log.say(f"written to {self.folder}: results.json, {BEST}, metrics.jsonl, tensorboard/")
        return record

    # -- files --------------------------------------------------------------------------------------------------

    def save(self, name: str, title: str) -> None:
        """Write a checkpoint of all networks, as they are after the stage of that title."""
        content = {
            "epoch": self.position.epochs_done,
            "title": title,
            "config": described(self.config, self.data),
            "vocabulary_digest": self.data.vocabulary.digest(),
            "networks": [n.matcher.state_dict() for n in self.networks],
            "chosen_on": "dev" if name == BEST else None,
            "dev": self.best["results"] if self.best else {},
        }
        self.files.checkpoint(name, content)

    def save_state(self) -> None:
        """Save all that the run needs to go on from here."""
        self.running.pauses.taken()
        self.files.state(self._state)

    def _state(self) -> dict[str, Any]:
        self.position.seconds = time.monotonic() - self.started
        return {
            "config": described(self.config, self.data),
            "data_digest": self.data.digest(),
            "position": self.position.as_dict(),
            "networks": [network.state() for network in self.networks],
            "divisions": {name: division.as_state() for name, division in self.divisions.items()},
            "best": self.best,
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "log": self.log.size(),
        }

    def _save_if_due(self) -> None:
        if self.running.pause_is_due():
            self.save_state()

    def _resume(self) -> tuple[list[str], dict[str, int]]:
        """Go back to the saved state; return what is to be said, and how much of the logs belongs to it.

        Raises:
            InputError: no whole state, or one of other settings or data.
        """
        content, remarks = self.files.saved.load()
        differing = differing_settings(content["config"], described(self.config, self.data))
        if differing:
            raise InputError(
                f"--resume: {self.folder} was started with other settings: {differing}; give the same flags"
            )
        if content["data_digest"] != self.data.digest():
            raise InputError(
                f"--resume: images and captions are paired otherwise than when {self.folder} was started: the noise or "
                "the image ids of a split have changed; give the data of then, or start a new run"
            )
        try:
            self._restore(content)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"--resume: the state in {self.folder} is not one of this run ({error}); start the run again"
            ) from None
        ahead = stages(self.settings)[self.position.stage :]
        where = ahead[0].title if ahead else "the test"
        return [*remarks, f"resumed in {self.folder} at {where}"], content["log"]

    def _restore(self, content: dict[str, Any]) -> None:
        for network, state in zip(self.networks, content["networks"], strict=True):
            network.restore(state)
        self.running.position = Position(**content["position"])
        self.divisions = {name: Division.from_state(state) for name, state in content["divisions"].items()}
        self.best = content["best"]
        if content["cuda_random"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda_random"], self.device)

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
