"""Norms, masks and cross attention."""

from __future__ import annotations

import pytest
import torch

from models.attention import l2norm, masked_mean, softmax_of_short_rows, word_mask
from tests import reference
from tests.models.networks import assert_same


def test_l2norm_is_its_twin() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert_same(l2norm(x, dim=0), reference.l2norm(x, 0), [x])


def test_l2norm_of_a_zero_vector_is_zero_with_a_finite_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    y = l2norm(x)
    y.sum().backward()
    assert not y.any() and x.grad is not None and torch.isfinite(x.grad).all()


def test_masked_mean_ignores_what_is_masked() -> None:
    words = torch.tensor([[[1.0], [3.0], [1e9]], [[5.0], [7.0], [9.0]]])
    mask = word_mask(torch.tensor([2, 3]), 3, torch.device("cpu"))
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert masked_mean(words, mask).tolist() == [[2.0], [7.0]]


@pytest.mark.parametrize("spread", [1.0, 200.0, float("nan")])
@pytest.mark.parametrize("records", [False, True])
def test_softmax_of_short_rows_is_softmax(spread: float, records: bool) -> None:
    """Close logits, far ones (where one maximum for all rows would lose some), broken ones."""
    logits = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * spread
    expected = torch.softmax(logits, dim=-1)
    with torch.set_grad_enabled(records):
        kept = logits.clone()
        found = softmax_of_short_rows(kept)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert not records or torch.equal(kept, logits) or spread != spread, "autograd needs the logits unharmed"
