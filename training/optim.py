"""Learning-rate rules by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.optim import Adam


def _ncr(epoch: int, num_epochs: int, lr_update: int) -> float:
    """lr * 0.1^(epoch // lr_update)."""
    return 0.1 ** (epoch // lr_update)


def _mgcs(epoch: int, num_epochs: int, lr_update: int) -> float:
    """lr * 0.5^(epoch // lr_update), times 0.1 from half of the epochs on, times 0.1 again from 75 % on."""
    factor = 0.5 ** (epoch // lr_update)
    if 2 * epoch >= num_epochs:
        factor *= 0.1
    if 4 * epoch >= 3 * num_epochs:
        factor *= 0.1
    return factor


LR_RULES: dict[str, Callable[[int, int, int], float]] = {"ncr": _ncr, "mgcs": _mgcs}
"""`--lr_rule`: name -> factor on the learning rate at (epoch, num_epochs, lr_update), epochs from 0."""


def build_optimiser(module: nn.Module, learning_rate: float) -> Adam:
    """Return Adam over all parameters; `fused` updates them in one pass, with the same arithmetic."""
    return Adam(module.parameters(), lr=learning_rate, fused=True)


def set_learning_rate(optimiser: Adam, learning_rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
