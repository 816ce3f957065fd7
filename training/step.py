"""A training step after warm-up: the loss of a clean batch and, late in training, of a noisy one.

Legend: B pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data_utils.batch import Batch
from methods.blocks.method import Scored, SoftLabels, StudentAndPeer
from models.matcher import Embeddings
from training.network import Network
from training.sparse import hardest_loss


@dataclass(frozen=True)
class LabelledBatch:
    """A share of a training step: a batch, its labels (B,), and which of its pairs enter the loss (None: all)."""

    batch: Batch
    labels: Tensor
    kept: Tensor | None = None


def soft_labels(student: Network, peer: Network, clean: Batch, noisy: Batch | None, probability: Tensor) -> SoftLabels:
    """Ask the student's method for labels; networks look at the pairs in eval mode, the peer only if it is asked.

    Args:
        probability: (B,) clean probability of the clean batch's pairs.
    """
    both = (student, peer)
    views = [
        None if batch is None else StudentAndPeer(*(Scored(n.matcher, n.method, batch) for n in both))
        for batch in (clean, noisy)
    ]
    assert views[0] is not None
    with torch.no_grad():
        labels = student.method.labels(views[0], views[1], probability)
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
    embeddings = network.matcher.embed(part.batch)
    loss_of = _loss_of(network, part, embeddings, hardness)
    if hardness < 1.0:
        return loss_of(network.matcher.score(embeddings))
    return hardest_loss(network.matcher, embeddings, loss_of)


def _loss_of(
    network: Network, part: LabelledBatch, embeddings: Embeddings, hardness: float
) -> Callable[[Tensor], Tensor]:
    """Return the loss as a function of the plain similarities (B, B)."""
    method = network.method

    def loss_of(sims: Tensor) -> Tensor:
        scores = method.scores(sims, embeddings, part.batch)
        return method.loss(scores, part.batch, part.labels, kept=part.kept, hardness=hardness)

    return loss_of
