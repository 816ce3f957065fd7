"""One of the co-taught networks, and the only place where a loss is differentiated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from methods import Method
from models.dropout import set_generator
from models.matcher import Matcher, MatcherShape, build_matcher
from runtime.seed import generator, seed_everything
from training.config import RunConfig
from training.optim import build_optimiser


@dataclass
class Network:
    """A matcher with what trains it; `dropout` is the generator of its dropout masks on a processor."""

    name: str
    matcher: Matcher
    optimiser: Adam
    method: Method
    dropout: torch.Generator

    def __post_init__(self) -> None:
        set_generator(self.matcher, self.dropout)

    def step(self, loss: Tensor, grad_clip: float) -> float:
        """Differentiate, clip the gradient's norm, update; return the loss."""
        self.optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.matcher.parameters(), grad_clip)
            self.optimiser.step()
        return float(loss.detach())

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


def build_networks(config: RunConfig, shape: MatcherShape, device: torch.device) -> list[Network]:
    """Return the run's networks with fresh weights from its seed."""
    settings = config.training
    seed_everything(settings.seed)
    networks = []
    for name in "AB"[: config.num_networks]:
        matcher = build_matcher(config.matcher, shape).to(device)
        dropout = generator(settings.seed, "dropout", name)
        optimiser = build_optimiser(matcher, settings.learning_rate)
        networks.append(Network(name, matcher, optimiser, config.build_method(), dropout))
    return networks
