"""One of the co-taught networks and its optimiser steps; the only place where a loss is differentiated.

Legend: B pairs of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from data_utils.loaders import Batch
from methods import Method
from methods.blocks.method import Scored, SoftLabels, StudentAndPeer
from models.encoders import set_generator
from models.ensemble import misfit
from models.matcher import Matcher, MatcherShape, hardest_loss
from runtime.checkpoint import load_checkpoint
from runtime.distributed import ALONE, Processes
from runtime.errors import InputError
from runtime.seed import generator, seed_everything
from training.config import RunConfig, TrainingConfig
from training.data import RunData
from vocab import word_vectors


class NotFinite(Exception):
    """A loss or gradient is NaN or infinite; the step was not taken. Says which, and of which network."""


@dataclass
class Network:
    """A matcher with what trains it; `dropout` is the generator of its dropout masks on a processor.

    Each of the `processes` of a run holds the same network, and has the same loss of a batch that they share.
    """

    name: str
    matcher: Matcher
    optimiser: Adam
    method: Method
    dropout: torch.Generator
    processes: Processes = ALONE

    def __post_init__(self) -> None:
        set_generator(self.matcher, self.dropout)

    @property
    def device(self) -> torch.device:
        """Where the matcher is."""
        return next(self.matcher.parameters()).device

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.optimiser.param_groups[0]["lr"]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of every parameter."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate

    def step(self, loss: Tensor, grad_clip: float) -> float:
        """Differentiate, clip the gradient's norm, update; return the loss.

        Raises:
            NotFinite: NaN or infinity in the loss or the gradient; nothing was updated.
        """
        self.optimiser.zero_grad(set_to_none=True)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NotFinite(f"the loss of network {self.name} is {value}")
        if loss.requires_grad:
            loss.backward()
            self.processes.sum_gradients(self.matcher.parameters())
            norm = float(torch.nn.utils.clip_grad_norm_(self.matcher.parameters(), grad_clip))
            if not math.isfinite(norm):
                raise NotFinite(f"the gradient of network {self.name} is {norm}")
            self.optimiser.step()
        return value

    def before_step(self) -> dict[str, Tensor]:
        """Return copies of what a forward pass changes: running statistics, and the state of the dropout generator."""
        buffers = {name: value.clone() for name, value in self.matcher.named_buffers()}
        return {**buffers, "dropout": self.dropout.get_state()}

    def undo_forward(self, before: dict[str, Tensor], *, dropout: bool) -> None:
        """Put back the running statistics of `before_step`, and with `dropout` the generator too."""
        with torch.no_grad():
            for name, value in self.matcher.named_buffers():
                value.copy_(before[name])
        if dropout:
            self.dropout.set_state(before["dropout"])

    def state(self) -> dict[str, Any]:
        """Return all that training changes: tensors and plain values. Tensors are shared with the network."""
        return {
            "weights": self.matcher.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "method": self.method.state(),
            "dropout": self.dropout.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` describes, of a network of the same configuration."""
        self.matcher.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.method.restore(state["method"])
        self.dropout.set_state(state["dropout"])


def build_optimiser(module: nn.Module, learning_rate: float) -> Adam:
    """Return Adam over all parameters; `fused` updates them in one pass, with the same arithmetic."""
    return Adam(module.parameters(), lr=learning_rate, fused=True)


def build_networks(
    config: RunConfig, shape: MatcherShape, device: torch.device, processes: Processes = ALONE
) -> list[Network]:
    """Return the run's networks with fresh weights from its seed."""
    settings = config.training
    seed_everything(settings.seed)
    networks = []
    for name in "AB"[: config.num_networks]:
        matcher = Matcher(config.matcher, shape).to(device)
        matcher.accumulate = settings.accumulate
        dropout = generator(settings.seed, "dropout", name)
        optimiser = build_optimiser(matcher, settings.learning_rate)
        networks.append(Network(name, matcher, optimiser, config.build_method(), dropout, processes))
    return networks


# -- what a run starts from -----------------------------------------------------------------------------------------


def load_weights(
    networks: list[Network], checkpoint: dict[str, Any], path: object, data: RunData, config: RunConfig
) -> None:
    """Load the networks of a checkpoint from `path` into ours.

    Raises:
        InputError: another vocabulary, number of networks, or dimensions.
    """
    digest = checkpoint["vocabulary_digest"]  # other programs' checkpoints have none
    if digest is not None and digest != data.vocabulary.digest():
        raise InputError(f"{path} was trained with another vocabulary than {config.data.data_name}'s")
    if len(checkpoint["networks"]) != len(networks):
        raise InputError(
            f"{path} holds {len(checkpoint['networks'])} network(s), this run trains {len(networks)}; "
            "add or leave out --no_co_training"
        )
    for network, weights in zip(networks, checkpoint["networks"], strict=True):
        if differing := misfit(network.matcher.state_dict(), weights):
            raise InputError(f"{path} does not fit this run: {differing}; use the network flags it was trained with")
        network.matcher.load_state_dict(weights)


def load_start(networks: list[Network], data: RunData, config: RunConfig) -> list[str]:
    """Load what a new run starts from into its networks, if anything; return what is to be said.

    Raises:
        InputError: a checkpoint or word vectors that do not fit.
    """
    path, vectors = config.training.saved_model or config.training.warmup_model_path, config.words.word_vectors
    if path is not None:
        load_weights(networks, load_checkpoint(path), path, data, config)
    if vectors is None:
        return []
    found = word_vectors.load(Path(vectors), data.vocabulary, config.matcher.word_dim)
    for network in networks:
        network.matcher.caption_encoder.set_word_vectors(torch.from_numpy(found.rows), torch.from_numpy(found.is_given))
    return [found.report(vectors)]


# -- steps ----------------------------------------------------------------------------------------------------------


def warm_up_step(networks: Sequence[Network], batch: Batch, settings: TrainingConfig) -> float:
    """Update one network or both with `--loss` over all negatives; return the loss per pair.

    On all pairs, on those that a network finds easy itself (`warmup_sele`), or on those that its peer finds easy
    (`co_teaching`; Han et al., NeurIPS 2018).
    """
    losses = [warm_up_losses(network, batch) for network in networks]
    if settings.warmup_type != "warmup":
        easy = [small(own, settings.warmup_rate) for own in losses]
        chosen = reversed(easy) if settings.warmup_type == "co_teaching" else easy
        losses = [own[picked] for own, picked in zip(losses, chosen, strict=True)]
    total = sum(n.step(own.sum(), settings.grad_clip) for n, own in zip(networks, losses, strict=True))
    return total / (len(networks) * len(batch))


def warm_up_losses(network: Network, batch: Batch) -> Tensor:
    """Return each pair's loss (B,) against all its negatives."""
    return network.method.per_pair_loss(network.matcher.score(network.matcher.embed(batch)), batch)


def small(losses: Tensor, rate: float) -> Tensor:
    """Return the numbers of the `rate` share of the pairs (B,) of smallest loss, at least one."""
    return torch.argsort(losses.detach(), stable=True)[: max(1, int(rate * len(losses)))]


@dataclass(frozen=True)
class LabelledBatch:
    """A share of a training step: a batch, its labels (B,), and which of its pairs enter the loss (None: all)."""

    batch: Batch
    labels: Tensor
    kept: Tensor | None = None


@torch.no_grad()
def soft_labels(student: Network, peer: Network, clean: Batch, noisy: Batch | None, probability: Tensor) -> SoftLabels:
    """Ask the student's method for labels; networks look at the pairs in eval mode, the peer only if it is asked.

    Args:
        probability: (B,) clean probability of the clean batch's pairs.
    """

    def seen(batch: Batch) -> StudentAndPeer:
        return StudentAndPeer(*(Scored(n.matcher, n.method, batch) for n in (student, peer)))

    labels = student.method.labels(seen(clean), None if noisy is None else seen(noisy), probability)
    assert labels.clean.shape == (len(clean),)
    return labels


def train_step(network: Network, parts: list[LabelledBatch], hardness: float, *, grad_clip: float) -> float:
    """Take one optimiser step on the summed loss of the parts; return that loss per pair."""
    loss = torch.stack([part_loss(network, part, hardness) for part in parts]).sum()
    return network.step(loss, grad_clip) / sum(len(part.batch) for part in parts)


def part_loss(network: Network, part: LabelledBatch, hardness: float) -> Tensor:
    """Return the loss of one batch.

    Args:
        network: in train mode.
        part: the batch and its labels.
        hardness: 0 for the mean of the negatives, 1 for the hardest.
    """
    method, embeddings = network.method, network.matcher.embed(part.batch)

    def loss_of(sims: Tensor) -> Tensor:
        scores = method.scores(sims, embeddings, part.batch)
        return method.loss(scores, part.batch, part.labels, kept=part.kept, hardness=hardness)

    if hardness < 1.0:
        return loss_of(network.matcher.score(embeddings))
    return hardest_loss(network.matcher, embeddings, loss_of)
