"""The loop all methods share: warm up, divide, train both networks on the division of their peer, validate, test.

What differs between methods is asked of their `Method` (methods/blocks/method.py); this file steps optimisers.
Legend: B pairs of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, count, repeat
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
from runtime.log import HeldLog, RunLog
from runtime.seed import generator
from training.config import RunConfig
from training.data import RunData
from training.division import Division, divide_pairs, division_metrics
from training.network import Network, build_networks
from training.optim import LR_RULES, set_learning_rate
from training.side_by_side import is_possible, run_side_by_side
from training.step import Part, share_of_hardest_kept, soft_labels, train_step
from training.warmup import warm_up_alone, warm_up_together

T = TypeVar("T")

BEST = "checkpoint_dev_best.pth.tar"
WARMED = "checkpoint_warmup.pth.tar"

SHORTLIST_CHECK = 10
"""Every so many records of the loss `--negative_shortlist` is compared with all pairs."""

MAX_RATIO_ERROR = 0.01 + 1e-9
"""A noise index that misses the asked ratio by more is warned about."""


@dataclass(frozen=True)
class Aside(Generic[T]):
    """What work in a fork comes back with: its result, what it had to log, the network's steps and its new state."""

    result: T
    held: list[Any]
    steps_done: int | None
    state: dict[str, Any] | None


class Trainer:
    """Train as `config` says and write everything into `folder`."""

    def __init__(self, config: RunConfig, data: RunData, folder: Path) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.settings = config.training
        self.device = choose_device(self.settings.gpu)
        self.networks = build_networks(config, data.shape, self.device)
        self.best: dict[str, Any] | None = None
        self.epochs_done = 0  # warm-up epochs included: the step of every record but the loss
        self.steps_done: dict[str, int] = {}  # by network: the step of the loss
        self.started = time.monotonic()
        self._start_from_checkpoint()
        scoring = prepare_scoring([n.matcher for n in self.networks], config.scoring, self.device)
        self.log = RunLog(folder)
        for line in scoring:
            self.log.say(line)

    def train(self) -> dict[str, Any]:
        """Run the whole recipe; return the content of results.json."""
        settings = self.settings
        write_json(self.folder / "config.json", self._described_config())
        self.log.say(self._introduction())
        noise = self.data.noise
        if abs(noise.measured_ratio - noise.asked_ratio) > MAX_RATIO_ERROR:
            self.log.say(
                f"warning: --noise_ratio is {noise.asked_ratio:g}, but {100 * noise.measured_ratio:.1f} % of the "
                "pairs of the noise index are mismatched"
            )
        if settings.saved_model or settings.warmup_model_path:
            self.validate("start", is_last=True)
        else:
            for epoch in range(settings.warmup_epoch):
                self.warm_up(epoch)
                self.validate(
                    f"warm-up {epoch + 1}/{settings.warmup_epoch}", is_last=epoch + 1 == settings.warmup_epoch
                )
            if settings.warmup_epoch:
                self.save(WARMED)
        for epoch in range(settings.num_epochs):
            self.set_learning_rate(epoch)
            divisions = self.divide(epoch)
            self.train_epochs(epoch, divisions)
            self.validate(f"epoch {epoch + 1}/{settings.num_epochs}", is_last=epoch + 1 == settings.num_epochs)
        return self.test()

    # -- warm-up ------------------------------------------------------------------------------------------------

    def warm_up(self, epoch: int) -> None:
        """Train one warm-up epoch with the mean hinge, on all pairs or on those of small loss."""
        settings, title = self.settings, f"warm-up {epoch + 1}"
        if settings.warmup_type == "co_teaching":
            batches = self._batches(np.arange(len(self.data.train)), "warm-up", epoch)
            together = partial(warm_up_together, self.networks, settings=settings)
            self._run(title, self.networks, batches, together)
            return

        def alone(network: Network) -> None:
            batches = self._batches(np.arange(len(self.data.train)), "warm-up", network.name, epoch)
            one_step = partial(warm_up_alone, network, settings=settings)
            self._run(f"{title} {network.name}", [network], batches, one_step)

        self._each(alone, self.networks, trains=True)

    # -- division -----------------------------------------------------------------------------------------------

    def divide(self, epoch: int) -> dict[str, Division]:
        """Let each network divide the training pairs; return its division by its name, and record how good it was."""
        is_matched = self.data.train.is_matched if self.data.truth_is_known else None
        dividing = [network for network in self.networks if network.method.divides]
        found = self._each(partial(self._divide_by, epoch=epoch), dividing, trains=True)
        for network, division in zip(dividing, found, strict=True):
            self._record_division(network.name, division_metrics(division, is_matched), division, is_matched)
        return {network.name: division for network, division in zip(dividing, found, strict=True)}

    def _divide_by(self, network: Network, epoch: int) -> Division:
        progress = self.log.progress(f"division {epoch + 1} {network.name}", len(self.data.train))
        division = divide_pairs(
            network.matcher,
            network.method,
            self.data.train,
            batch_size=self.settings.batch_size,
            generator=self._generator("division"),
            device=self.device,
            workers=self.settings.workers,
            advance=progress.advance,
        )
        progress.close()
        return division

    def _record_division(
        self, name: str, metrics: dict[str, float | None], division: Division, is_matched: np.ndarray | None
    ) -> None:
        known = {f"division/{name}/{key}": value for key, value in metrics.items() if value is not None}
        self.log.scalars(self.epochs_done, known, event="division", network=name)
        shown = ("share_clean", "precision", "recall", "residual_noise", "auc")
        parts = [f"{key.replace('_', ' ')} {metrics[key]:.3f}" for key in shown if metrics.get(key) is not None]
        self.log.say(f"  division by {name}: {', '.join(parts)}")
        for label, values in {"signal": division.signal, **division.diagnostics}.items():
            sides = {"": slice(None)} if is_matched is None else {"/matched": is_matched, "/mismatched": ~is_matched}
            for side, chosen in sides.items():
                self.log.histogram(f"division/{name}/{label}{side}", values[chosen], self.epochs_done)

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

    def train_epochs(self, epoch: int, divisions: dict[str, Division]) -> None:
        """Train every network for one epoch on the division of its peer.

        One after the other where labels need the peer: the second then learns from what the first has become.
        """
        peers = {student.name: peer for student, peer in self.pairs()}

        def train(student: Network) -> None:
            peer = peers[student.name]
            self.train_epoch(student, peer, epoch, divisions.get(peer.name))

        has_noisy = self.trains_noisy(epoch)
        if any(network.method.consults_peer(has_noisy) for network in self.networks):
            for student in self.networks:
                train(student)
        else:
            self._each(train, self.networks, trains=True)

    def trains_noisy(self, epoch: int) -> bool:
        """Tell whether the noisy side is trained in this epoch, if there is any."""
        return epoch >= self.settings.noisy_start * self.settings.num_epochs

    def train_epoch(self, student: Network, peer: Network, epoch: int, division: Division | None) -> None:
        """Train one network for one epoch on the division of its peer (None: on all pairs as they are)."""
        total = len(self.data.train)
        probability = np.ones(total) if division is None else division.probability
        is_clean = np.ones(total, dtype=bool) if division is None else division.is_clean
        clean, noisy = np.flatnonzero(is_clean), np.flatnonzero(~is_clean)
        if len(clean) < MIN_BATCH:
            self.log.say(f"  warning: {peer.name} finds no clean side; {student.name} is not trained this epoch")
            return
        settings, name = self.settings, student.name
        batches = self._batches(clean, "clean", name, epoch)
        noisy_batches: Iterator[Batch | None] = repeat(None)
        if self.trains_noisy(epoch) and len(noisy) >= MIN_BATCH:
            shuffle = self._generator("noisy", name, epoch)
            noisy_batches = load_forever(
                self.data.train,
                noisy,
                settings.batch_size,
                shuffle,
                settings.workers,
                window=settings.length_window,
                device=self.device,
            )
        hardness = self.hardness(epoch)
        chances = torch.from_numpy(probability).float()

        steps = count(1)

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

        self._run(f"epoch {epoch + 1} {name}", [student], batches, one_step)

    def _each(self, work: Callable[[Network], T], networks: Sequence[Network], *, trains: bool = False) -> list[T]:
        """Do independent work of each network, side by side if asked for and possible; `trains`: it changes them."""
        if not (self.settings.side_by_side and len(networks) > 1 and is_possible(self.device)):
            return [work(network) for network in networks]

        def in_a_fork(line: int, network: Network) -> Aside[T]:
            self.log = held = HeldLog(line)  # type: ignore[assignment]
            result = work(network)
            return Aside(result, held.held, self.steps_done.get(network.name), network.state() if trains else None)

        results = []
        tasks = [partial(in_a_fork, line, network) for line, network in enumerate(networks)]
        for network, aside in zip(networks, run_side_by_side(tasks), strict=True):
            self.log.replay(aside.held)
            if aside.steps_done is not None:
                self.steps_done[network.name] = aside.steps_done
            if aside.state is not None:
                network.restore(aside.state)
            results.append(aside.result)
        return results

    def _run(
        self, title: str, networks: list[Network], batches: list[Tensor], one_step: Callable[[Batch], float]
    ) -> None:
        """Walk over an epoch's batches: train mode, device, step, progress, records."""
        for network in networks:
            network.matcher.train()
        progress = self.log.progress(title, sum(len(b) for b in batches))
        name, losses = "+".join(n.name for n in networks), []
        ready = load(self.data.train, batches, self.settings.workers, device=self.device)
        for number, batch in enumerate(ready, start=1):
            losses.append(one_step(batch.to(self.device)))
            progress.advance(len(batch), losses[-1])
            if number % self.settings.log_step == 0 or number == len(batches):
                self._record_loss(name, losses)
                losses = []
        progress.close()

    def _check_shortlist(self, network: Network, part: Part, number: int) -> None:
        """Now and then, record which share of the hardest negatives `--negative_shortlist` keeps."""
        if number % (SHORTLIST_CHECK * self.settings.log_step) != 1:
            return
        share = share_of_hardest_kept(network, part, self.settings.negative_shortlist)
        values = {f"negative_shortlist/{network.name}/share_kept": share}
        step = self.steps_done.get(network.name, 0) + number
        self.log.scalars(step, values, event="shortlist", network=network.name)
        self.log.say(f"  {network.name}: the shortlist keeps {100 * share:.1f} % of the hardest negatives")

    def _record_loss(self, name: str, losses: list[float]) -> None:
        """Record the mean loss of so many steps."""
        self.steps_done[name] = self.steps_done.get(name, 0) + len(losses)
        where = {"event": "loss", "epoch": self.epochs_done, "network": name}
        self.log.scalars(self.steps_done[name], {f"loss/{name}": float(np.mean(losses))}, **where)

    # -- validation, test, files --------------------------------------------------------------------------------

    def evaluate(self, split: PrecomputedSplit) -> dict[str, Retrieval]:
        """Rank a split with every network and with the mean of their scores."""
        found = self._each(lambda network: similarities(network.matcher, split, self.device), self.networks)
        sims = with_mean({network.name: own for network, own in zip(self.networks, found, strict=True)})
        return {name: retrieval(matrix, split.image_of_caption) for name, matrix in sims.items()}

    def validate(self, title: str, *, is_last: bool) -> None:
        """Rank the dev split when its turn has come, and keep the networks if their mean is the best so far."""
        self.epochs_done += 1
        if self.epochs_done % self.settings.validate_every and not is_last:
            return
        results = self.evaluate(self.data.dev)
        final = list(results)[-1]
        seconds = time.monotonic() - self.started
        self.log.say(f"{title} ({seconds:.0f} s)\n{result_table('dev', results)}")
        values = {f"dev/{name}/rSum": r.r_sum for name, r in results.items()}
        values["learning_rate"] = self.networks[0].optimiser.param_groups[0]["lr"]
        self.log.scalars(
            self.epochs_done, values, event="dev", title=title, results={n: r.as_dict() for n, r in results.items()}
        )
        if self.best is None or results[final].r_sum > self.best["rSum"]:
            self.best = {"rSum": results[final].r_sum, "epoch": self.epochs_done, "title": title}
            self.best["results"] = {name: r.as_dict() for name, r in results.items()}
            self.save(BEST)

    def test(self) -> dict[str, Any]:
        """Rank the test split once, with the networks that were best on dev, and write results.json."""
        assert self.best is not None
        self._load_weights(load_checkpoint(self.folder / BEST), BEST)
        results = self.evaluate(self.data.test)
        self.log.say(f"test, networks of {self.best['title']} (best on dev)\n{result_table('test', results)}")
        record = {
            "data_name": self.config.data.data_name,
            "method": self.config.method_name,
            "similarity": self.config.matcher.module_name,
            "noise": asdict(self.data.noise),
            "seed": self.settings.seed,
            "num_networks": len(self.networks),
            "epoch": self.best["epoch"],
            "epoch_title": self.best["title"],
            "chosen_on": "dev",
            "split": "test",
            "dev": self.best["results"],
            "test": {name: r.as_dict() for name, r in results.items()},
            "seconds": time.monotonic() - self.started,
        }
        write_json(self.folder / "results.json", record)
        self.log.say(f"written to {self.folder}: results.json, {BEST}, metrics.jsonl, tensorboard/")
        self.log.close()
        return record

    def save(self, name: str) -> None:
        """Write a checkpoint of all networks."""
        save_checkpoint(
            self.folder / name,
            {
                "epoch": self.epochs_done,
                "config": self._described_config(),
                "vocabulary_digest": self.data.vocabulary.digest(),
                "networks": [n.matcher.state_dict() for n in self.networks],
                "chosen_on": "dev" if name == BEST else None,
                "dev": self.best["results"] if self.best else {},
            },
        )

    def _described_config(self) -> dict[str, Any]:
        """Return every setting; folders in full, so that evaluation finds the data from anywhere."""
        settings = self.config.as_dict()
        for name in ("data_path", "vocab_path"):
            if settings["data"][name] is not None:
                settings["data"][name] = str(Path(settings["data"][name]).resolve())
        return {**settings, "shape": asdict(self.data.shape), "noise_report": asdict(self.data.noise)}

    def _start_from_checkpoint(self) -> None:
        path = self.settings.saved_model or self.settings.warmup_model_path
        if path is not None:
            self._load_weights(load_checkpoint(path), path)

    def _load_weights(self, checkpoint: dict[str, Any], path: str) -> None:
        """Load a checkpoint's networks into ours.

        Raises:
            InputError: another vocabulary, number of networks, or dimensions.
        """
        if checkpoint["vocabulary_digest"] != self.data.vocabulary.digest():
            raise InputError(f"{path} was trained with another vocabulary than {self.config.data.data_name}'s")
        if len(checkpoint["networks"]) != len(self.networks):
            raise InputError(
                f"{path} holds {len(checkpoint['networks'])} network(s), this run trains {len(self.networks)}; "
                "add or leave out --no_co_training"
            )
        for network, weights in zip(self.networks, checkpoint["networks"], strict=True):
            own = {key: tuple(value.shape) for key, value in network.matcher.state_dict().items()}
            given = {key: tuple(value.shape) for key, value in weights.items()}
            differing = [key for key in chain(own, given) if own.get(key) != given.get(key)]
            if differing:
                key = differing[0]
                raise InputError(
                    f"{path} does not fit this run: {key} is {given.get(key, 'absent')} there and "
                    f"{own.get(key, 'absent')} here; use the network flags it was trained with"
                )
            network.matcher.load_state_dict(weights)

    def _batches(self, pairs: np.ndarray, *purpose: str | int) -> list[Tensor]:
        """Shuffle pair numbers into an epoch's batches."""
        settings, shuffle = self.settings, self._generator(*purpose)
        return shuffled_batches(
            pairs, settings.batch_size, shuffle, lengths=self.data.train.lengths, window=settings.length_window
        )

    def _generator(self, *purpose: str | int) -> torch.Generator:
        return generator(self.settings.seed, *purpose)

    def _introduction(self) -> str:
        data, noise = self.data, self.data.noise
        return (
            f"{self.config.data.data_name}: {data.train.num_images} images, {len(data.train)} training pairs, "
            f"{100 * noise.measured_ratio:.1f} % mismatched (protocol {noise.protocol}); "
            f"{len(self.networks)} x {self.config.matcher.module_name}, method {self.config.method_name}, "
            f"on {self.device}; output in {self.folder}"
        )
