"""One of the co-taught networks, and the only place where a loss is differentiated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam

from methods import Method
from models.matcher import Matcher


@dataclass
class Network:
    """A matcher with what trains it."""

    name: str
    matcher: Matcher
    optimiser: Adam
    method: Method

    def step(self, loss: Tensor, grad_clip: float) -> float:
        """Differentiate, clip the gradient's norm, update; return the loss."""
        self.optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.matcher.parameters(), grad_clip)
            self.optimiser.step()
        return float(loss.detach())
