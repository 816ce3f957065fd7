"""Norms, masks and cross attention."""

from __future__ import annotations

import pytest
import torch

from models.attention import l2norm, masked_mean, softmax_of_short_rows, unit_rows, word_mask
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


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("spread", [1.0, 200.0, float("nan")])
def test_softmax_of_short_rows_is_softmax(spread: float, is_masked: bool) -> None:
    """Close logits, far ones (where one maximum for all rows would lose some), broken ones."""
    random = torch.Generator().manual_seed(0)
    logits = (torch.randn(4, 3, 5, dtype=torch.float64, generator=random) * spread).requires_grad_()
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 2])[:, None, None] if is_masked else None
    expected = torch.softmax(logits if mask is None else logits.masked_fill(~mask, float("-inf")), dim=-1)
    with torch.no_grad():
        found = softmax_of_short_rows(logits.clone(), mask)
    torch.testing.assert_close(found, expected, equal_nan=True)
    before = logits.detach().clone()
    recorded = softmax_of_short_rows(logits * 1, mask)
    if spread == spread:
        assert_same(recorded, expected, [logits])
        assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_unit_rows_are_l2norm(scale: float) -> None:
    """Also where 1e-8 weighs in the norm; a zero row stays zero, with a finite gradient."""
    random = torch.Generator().manual_seed(0)
    x = (scale * torch.randn(2, 3, 4, dtype=torch.float64, generator=random)).requires_grad_()
    assert_same(unit_rows(x), l2norm(x), [x], tolerance=1e-8)
    zero = torch.zeros(2, 3, requires_grad=True)
    units = unit_rows(zero)
    (gradient,) = torch.autograd.grad(units.sum(), zero)
    assert not units.any() and torch.isfinite(gradient).all()
