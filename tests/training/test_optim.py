"""Learning-rate rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.optim import LR_RULES, build_optimiser, set_learning_rate


@pytest.mark.parametrize(
    ("rule", "num_epochs", "lr_update", "expected"),
    [
        # 0.1^(epoch // lr_update)
        ("ncr", 8, 3, [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ("ncr", 3, 30, [1, 1, 1]),
        # 0.5^(epoch // lr_update), a tenth from epoch 4 on, another tenth from epoch 6 on
        ("mgcs", 8, 30, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("mgcs", 8, 3, [1, 1, 1, 0.5, 0.05, 0.05, 0.0025, 0.0025]),
        # odd numbers of epochs: from 2.5 and 3.75 on
        ("mgcs", 5, 30, [1, 1, 1, 0.1, 0.01]),
    ],
)
def test_factors(rule: str, num_epochs: int, lr_update: int, expected: list[float]) -> None:
    factors = [LR_RULES[rule](epoch, num_epochs, lr_update) for epoch in range(num_epochs)]
    assert factors == pytest.approx(expected, rel=1e-12)


def test_the_published_run() -> None:
    """40 epochs, lr_update 30."""
    ncr = [LR_RULES["ncr"](epoch, 40, 30) for epoch in (0, 29, 30, 39)]
    mgcs = [LR_RULES["mgcs"](epoch, 40, 30) for epoch in (0, 19, 20, 29, 30, 39)]
    assert ncr == pytest.approx([1, 1, 0.1, 0.1])
    assert mgcs == pytest.approx([1, 1, 0.1, 0.1, 0.005, 0.005])
    assert set(LR_RULES) == {"ncr", "mgcs"}


def test_the_optimiser_is_adam_over_all_parameters() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimiser = build_optimiser(module, 0.5)
    assert isinstance(optimiser, torch.optim.Adam)
    assert len(optimiser.param_groups[0]["params"]) == 4
    set_learning_rate(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [0.25]
