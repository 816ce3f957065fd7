"""Hinge costs, reductions and soft margins against their slow twins, and at their edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.losses import (
    SOFT_MARGINS,
    hardest_negative,
    mean_over_negatives,
    pair_costs,
    soft_margin,
)
from tests import reference
from tests.models.networks import assert_same

IMAGE_IDS: list[list[int] | None] = [None, [0, 1, 0, 2, 1, 0], [5, 5, 5, 5, 5, 5], [0, 1, 2, 3, 4, 5]]


def draw(size: int = 6, seed: int = 0) -> Tensor:
    """Draw scores (size, size) of which some hinges are active and some are not."""
    random = torch.Generator().manual_seed(seed)
    scores = torch.rand(size, size, generator=random, dtype=torch.float64)
    return (scores + 0.4 * torch.eye(size)).requires_grad_()


def draw_margins(size: int = 6) -> Tensor:
    """Draw one margin a pair."""
    random = torch.Generator().manual_seed(9)
    return (0.4 * torch.rand(size, generator=random, dtype=torch.float64)).requires_grad_()


def ids(image_id: list[int] | None) -> Tensor | None:
    """Make a tensor of image numbers."""
    return None if image_id is None else torch.tensor(image_id)


@pytest.mark.parametrize("image_id", IMAGE_IDS, ids=str)
@pytest.mark.parametrize("margin", [0.2, draw_margins()], ids=["scalar", "each"])
def test_costs_and_reductions_are_the_twins(margin: float | Tensor, image_id: list[int] | None) -> None:
    scores = draw()
    inputs = [scores, margin] if isinstance(margin, Tensor) else [scores]
    costs, twin = pair_costs(scores, margin, ids(image_id)), reference.pair_costs(scores, margin, image_id)
    assert_same(costs.i2t, twin["cost_i2t"], inputs)
    assert_same(costs.t2i, twin["cost_t2i"], inputs)
    assert_same(mean_over_negatives(costs), reference.mean_hinge_per_pair(scores, margin, image_id), inputs)
    assert_same(hardest_negative(costs), reference.hardest_hinge_per_pair(scores, margin, image_id), inputs)


def test_the_margin_belongs_to_the_anchor() -> None:
    """Image 0 and caption 0 have margin 0.3, image 1 and caption 1 none; every score is the same."""
    costs = pair_costs(torch.full((2, 2), 0.5), torch.tensor([0.3, 0.0]))
    assert costs.i2t.tolist() == [[0.0, pytest.approx(0.3)], [0.0, 0.0]]
    assert costs.t2i.tolist() == [[0.0, 0.0], [pytest.approx(0.3), 0.0]]


@pytest.mark.parametrize("image_id", IMAGE_IDS, ids=str)
@pytest.mark.parametrize("margin", [0.2, draw_margins()], ids=["scalar", "each"])
def test_t2i_is_the_transpose_of_i2t(margin: float | Tensor, image_id: list[int] | None) -> None:
    scores = draw()
    straight, turned = pair_costs(scores, margin, ids(image_id)), pair_costs(scores.t(), margin, ids(image_id))
    assert straight.t2i.sum() != straight.i2t.sum() or not straight.i2t.any()
    assert torch.equal(straight.t2i, turned.i2t.t()) and torch.equal(straight.i2t, turned.t2i.t())


def test_a_satisfied_batch_costs_exactly_nothing() -> None:
    scores = (0.1 + 0.8 * torch.eye(4)).requires_grad_()
    for reduced in (mean_over_negatives, hardest_negative):
        loss = reduced(pair_costs(scores, 0.2)).sum()
        (gradient,) = torch.autograd.grad(loss, scores)
        assert loss.item() == 0.0 and not gradient.any()


@pytest.mark.parametrize("size", [2, 5])
def test_equal_scores_cost_the_margin(size: int) -> None:
    costs = pair_costs(torch.full((size, size), 0.5), 0.2)
    assert hardest_negative(costs).tolist() == [pytest.approx(0.4)] * size
    assert mean_over_negatives(costs).tolist() == [pytest.approx(0.4 * (size - 1) / size)] * size, "over B, not B - 1"


def test_a_batch_of_one_has_no_negative() -> None:
    costs = pair_costs(torch.tensor([[0.3]]), 0.2)
    assert hardest_negative(costs).tolist() == mean_over_negatives(costs).tolist() == [0.0]


def test_margins_of_the_wrong_shape_are_refused() -> None:
    for wrong in (torch.zeros(3), torch.zeros(6, 6), torch.tensor(0.2)):
        with pytest.raises(AssertionError):
            pair_costs(draw(), wrong)
    with pytest.raises(AssertionError):
        pair_costs(torch.zeros(2, 3), 0.2)


@pytest.mark.parametrize("kind", SOFT_MARGINS)
def test_soft_margins_are_the_twins_and_rise_from_nothing_to_the_whole(kind: str) -> None:
    labels = torch.linspace(0, 1, 21, dtype=torch.float64, requires_grad=True)
    margins = soft_margin(labels, 0.2, kind)
    assert_same(margins, reference.soft_margin(labels, 0.2, kind), [labels])
    assert margins[0].item() == pytest.approx(0.0, abs=1e-15) and margins[-1].item() == pytest.approx(0.2)
    assert (margins.diff() > 0).all()


def test_soft_margins_want_one_label_a_pair() -> None:
    with pytest.raises(AssertionError):
        soft_margin(torch.zeros(3, 3), 0.2, "linear")
