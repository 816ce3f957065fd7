"""Dropout: the right share, the right scale, every bit in use."""

from __future__ import annotations

import pytest
import torch

from models.dropout import Dropout


@pytest.mark.parametrize("p", [0.05, 0.4, 0.9])
def test_share_scale_and_gradient(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 401, requires_grad=True)  # not a multiple of four
    y = Dropout(p)(x)
    kept = y.detach() > 0
    assert float(kept.float().mean()) == pytest.approx(1 - p, abs=0.005)
    torch.testing.assert_close(y.detach()[kept].unique(), torch.tensor([1 / (1 - round(p * 65536) / 65536)]))
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())


def test_elements_are_independent() -> None:
    """Each of the four that share a random number has the right share, and no two go together."""
    torch.manual_seed(0)
    kept = (Dropout(0.4)(torch.ones(40_000, 4)) > 0).double()
    torch.testing.assert_close(kept.mean(dim=0), torch.full((4,), 0.6, dtype=torch.float64), rtol=0, atol=0.01)
    correlation = torch.corrcoef(torch.cat([kept.t(), kept.roll(1, dims=0).t()]))
    assert (correlation - torch.eye(8, dtype=torch.float64)).abs().max() < 0.03


def test_evaluation_and_zero_drop_nothing() -> None:
    x = torch.randn(3, 4)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x


def test_same_seed_same_mask() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(Dropout(0.4)(torch.ones(50)))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
