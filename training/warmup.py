"""Warm-up steps: the mean hinge on all pairs of a batch, or on those of small loss.

Pairs are scored once, without keeping activations; then only what the selected losses depend on is differentiated.
Legend: B pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data_utils.batch import Batch
from training.config import TrainingConfig
from training.network import Network


def warm_up_alone(network: Network, batch: Batch, settings: TrainingConfig) -> float:
    """Update a network on all pairs, or on those it finds easy itself (`warmup_sele`); return the loss per pair."""
    losses = _losses(network, batch)
    if settings.warmup_type == "warmup_sele":
        losses = losses[small(losses, settings.warmup_rate)]
    return network.step(losses.sum(), settings.grad_clip) / len(batch)


def warm_up_together(networks: list[Network], batch: Batch, settings: TrainingConfig) -> float:
    """Update each of two networks on the pairs that its peer finds easy (Han et al., NeurIPS 2018)."""
    losses = [_losses(network, batch) for network in networks]
    easy = [small(own, settings.warmup_rate) for own in losses]
    parts = zip(networks, losses, reversed(easy), strict=True)
    total = sum(network.step(own[picked].sum(), settings.grad_clip) for network, own, picked in parts)
    return total / (len(networks) * len(batch))


def _losses(network: Network, batch: Batch) -> Tensor:
    return network.method.per_pair_loss(network.matcher.score(network.matcher.embed(batch)), batch)


def small(losses: Tensor, rate: float) -> Tensor:
    """Return the numbers of the `rate` share of the pairs (B,) of smallest loss, at least one."""
    return torch.argsort(losses.detach(), stable=True)[: max(1, int(rate * len(losses)))]
