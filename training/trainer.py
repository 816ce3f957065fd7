"""The loop all methods share: warm up, divide, train both networks on the division of their peer, validate, test.

What differs between methods is asked of their `Method` (methods/blocks/method.py); this file steps optimisers.
Legend: B pairs of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam

from data_utils.batch import Batch
from data_utils.loaders import MIN_BATCH, load, load_forever, shuffled_batches
from data_utils.precomputed import PrecomputedSplit
from evaluation import Retrieval, named_similarities, result_table, retrieval
from methods import Method
from methods.blocks.method import Scored, SoftLabels, Views
from models.matcher import Embeddings, Matcher, build_matcher
from runtime.checkpoint import load_checkpoint, save_checkpoint, write_json
from runtime.device import choose_device
from runtime.errors import InputError
from runtime.log import RunLog
from runtime.seed import generator, seed_everything
from training.config import RunConfig
from training.data import RunData
from training.division import Division, divide_pairs, division_metrics
from training.optim import LR_RULES, build_optimiser, set_learning_rate
from training.sparse import loss_over_touched_pairs

BEST = "checkpoint_dev_best.pth.tar"
WARMED = "checkpoint_warmup.pth.tar"

MAX_RATIO_ERROR = 0.01 + 1e-9
"""A noise index that misses the asked ratio by more is warned about."""


@dataclass
class Network:
    """One of the co-taught networks."""

    name: str
    matcher: Matcher
    optimiser: Adam
    method: Method


@dataclass(frozen=True)
class Part:
    """A share of a training step: a batch, its labels (B,) and which of its pairs enter the loss (None: all)."""

    batch: Batch
    labels: Tensor
    kept: Tensor | None = None


class Trainer:
    """Train as `config` says and write everything into `folder`."""

    def __init__(self, config: RunConfig, data: RunData, folder: Path) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.settings = config.training
        self.device = choose_device(self.settings.gpu)
        self.networks = self._build_networks()
        self.best: dict[str, Any] | None = None
        self.epochs_done = 0  # warm-up epochs included: the step of every record but the loss
        self.steps_done: dict[str, int] = {}  # by network: the step of the loss
        self.started = time.monotonic()
        self._start_from_checkpoint()
        self.log = RunLog(folder)

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
            for student, peer in self.pairs():
                self.train_epoch(student, peer, epoch, divisions.get(peer.name))
            self.validate(f"epoch {epoch + 1}/{settings.num_epochs}", is_last=epoch + 1 == settings.num_epochs)
        return self.test()

    # -- warm-up ------------------------------------------------------------------------------------------------

    def warm_up(self, epoch: int) -> None:
        """Train one warm-up epoch with the mean hinge, on all pairs or on those of small loss."""
        everything = np.arange(len(self.data.train))
        if self.settings.warmup_type == "co_teaching":
            batches = shuffled_batches(everything, self.settings.batch_size, self._generator("warm-up", epoch))
            self._run(f"warm-up {epoch + 1}", self.networks, batches, self._co_teach)
            return
        for network in self.networks:
            batches = shuffled_batches(
                everything, self.settings.batch_size, self._generator("warm-up", network.name, epoch)
            )
            self._run(f"warm-up {epoch + 1} {network.name}", [network], batches, self._warm_up_alone)

    def _warm_up_alone(self, networks: list[Network], batch: Batch) -> float:
        """Update a network on all pairs, or on those it finds easy itself (`warmup_sele`)."""
        (network,) = networks
        embeddings = network.matcher.embed(batch)

        def loss_of(sims: Tensor) -> Tensor:
            losses = self._warm_up_losses(network, sims, embeddings, batch)
            return (losses[self._small(losses)] if self.settings.warmup_type == "warmup_sele" else losses).sum()

        return self.step(network, loss_over_touched_pairs(network.matcher, embeddings, loss_of)) / len(batch)

    def _co_teach(self, networks: list[Network], batch: Batch) -> float:
        """Update each network on the pairs that its peer finds easy (Han et al., NeurIPS 2018)."""
        embeddings = [network.matcher.embed(batch) for network in networks]
        with torch.no_grad():
            easy = [
                self._small(self._warm_up_losses(network, network.matcher.score(own), own, batch))
                for network, own in zip(networks, embeddings, strict=True)
            ]
        total = 0.0
        for network, own, picked in zip(networks, embeddings, reversed(easy), strict=True):

            def loss_of(
                sims: Tensor, network: Network = network, own: Embeddings = own, picked: Tensor = picked
            ) -> Tensor:
                return self._warm_up_losses(network, sims, own, batch)[picked].sum()

            total += self.step(network, loss_over_touched_pairs(network.matcher, own, loss_of))
        return total / (len(networks) * len(batch))

    def _warm_up_losses(self, network: Network, sims: Tensor, embeddings: Embeddings, batch: Batch) -> Tensor:
        return network.method.per_pair_loss(network.method.warmup_scores(sims, embeddings, batch), batch)

    def _small(self, losses: Tensor) -> Tensor:
        """Return the numbers of the `--warmup_rate` share of pairs of smallest loss, at least one."""
        count = max(1, int(self.settings.warmup_rate * len(losses)))
        return torch.argsort(losses.detach(), stable=True)[:count]

    # -- division -----------------------------------------------------------------------------------------------

    def divide(self, epoch: int) -> dict[str, Division]:
        """Let each network divide the training pairs; return its division by its name, and record how good it was."""
        divisions = {}
        is_matched = self.data.train.is_matched if self.data.truth_is_known else None
        for network in self.networks:
            if not network.method.divides:
                continue
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
            metrics = division_metrics(division, is_matched)
            self._record_division(network.name, metrics, division, is_matched)
            divisions[network.name] = division
        return divisions

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
        batches = shuffled_batches(clean, settings.batch_size, self._generator("clean", name, epoch))
        noisy_batches: Iterator[Batch | None] = repeat(None)
        if epoch >= settings.noisy_start * settings.num_epochs and len(noisy) >= MIN_BATCH:
            shuffle = self._generator("noisy", name, epoch)
            noisy_batches = load_forever(self.data.train, noisy, settings.batch_size, shuffle, settings.workers)
        hardness = self.hardness(epoch)
        chances = torch.from_numpy(probability).float()

        def one_step(networks: list[Network], batch: Batch) -> float:
            other = next(noisy_batches)
            other = None if other is None else other.to(self.device)
            labels = self.soft_labels(student, peer, batch, other, chances[batch.index.cpu()].to(self.device))
            parts = [Part(batch, labels.clean)]
            if other is not None and labels.noisy is not None:
                parts.append(Part(other, labels.noisy, labels.noisy_kept))
            return self.train_step(student, parts, hardness)

        self._run(f"epoch {epoch + 1} {name}", [student], batches, one_step)

    def soft_labels(
        self, student: Network, peer: Network, clean: Batch, noisy: Batch | None, probability: Tensor
    ) -> SoftLabels:
        """Ask the method for labels; both networks look at the pairs in eval mode."""
        both = (student, peer)
        for network in both:
            network.matcher.eval()
        views = [
            None if batch is None else Views(*(Scored(n.matcher, n.method, batch) for n in both))
            for batch in (clean, noisy)
        ]
        assert views[0] is not None
        with torch.no_grad():
            labels = student.method.refine(views[0], views[1], probability)
        for network in both:
            network.matcher.train()
        assert labels.clean.shape == (len(clean),)
        return labels

    def train_step(self, network: Network, parts: list[Part], hardness: float) -> float:
        """Take one optimiser step on the summed loss of the parts; return that loss per pair."""
        loss = torch.stack([self.part_loss(network, part, hardness) for part in parts]).sum()
        return self.step(network, loss) / sum(len(part.batch) for part in parts)

    def part_loss(self, network: Network, part: Part, hardness: float) -> Tensor:
        """Return the loss of one batch."""
        method, batch = network.method, part.batch
        embeddings = network.matcher.embed(batch)

        def loss_of(sims: Tensor) -> Tensor:
            scores = method.scores(sims, embeddings, batch)
            return method.loss(scores, batch, part.labels, kept=part.kept, hardness=hardness)

        return loss_over_touched_pairs(network.matcher, embeddings, loss_of)

    def step(self, network: Network, loss: Tensor) -> float:
        """Differentiate, clip, update; the only backward pass of the suite. Return the loss."""
        network.optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.matcher.parameters(), self.settings.grad_clip)
            network.optimiser.step()
        return float(loss.detach())

    def _run(self, title: str, networks: list[Network], batches: list[Tensor], one_step: Any) -> None:
        """Walk over an epoch's batches: train mode, device, step, progress, records."""
        for network in networks:
            network.matcher.train()
        progress = self.log.progress(title, sum(len(b) for b in batches))
        name, losses = "+".join(n.name for n in networks), []
        for number, batch in enumerate(load(self.data.train, batches, self.settings.workers), start=1):
            losses.append(one_step(networks, batch.to(self.device)))
            progress.advance(len(batch), losses[-1])
            if number % self.settings.log_step == 0 or number == len(batches):
                self._record_loss(name, losses)
                losses = []
        progress.close()

    def _record_loss(self, name: str, losses: list[float]) -> None:
        self.steps_done[name] = self.steps_done.get(name, 0) + len(losses)
        where = {"event": "loss", "epoch": self.epochs_done, "network": name}
        self.log.scalars(self.steps_done[name], {f"loss/{name}": float(np.mean(losses))}, **where)

    # -- validation, test, files --------------------------------------------------------------------------------

    def evaluate(self, split: PrecomputedSplit) -> dict[str, Retrieval]:
        """Rank a split with every network and with the mean of their scores."""
        sims = named_similarities([n.matcher for n in self.networks], split, self.device)
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

    def _build_networks(self) -> list[Network]:
        seed_everything(self.settings.seed)
        networks = []
        for name in "AB"[: self.config.num_networks]:
            matcher = build_matcher(self.config.matcher, self.data.shape).to(self.device)
            optimiser = build_optimiser(matcher, self.settings.learning_rate)
            networks.append(Network(name, matcher, optimiser, self.config.build_method()))
        return networks

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
