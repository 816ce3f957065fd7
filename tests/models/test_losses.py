"""Hinge costs, soft margins and contrastive losses against their slow twins, their bounds and their edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.losses import (
    CONTRASTIVE,
    SOFT_MARGINS,
    ContrastiveConfig,
    contrastive_costs,
    hardest_negative,
    mean_over_negatives,
    negatives,
    pair_costs,
    soft_margin,
)
from runtime.errors import InputError
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


@pytest.mark.parametrize("kind", SOFT_MARGINS)
def test_soft_margins_are_the_twins_and_rise_from_nothing_to_the_whole(kind: str) -> None:
    labels = torch.linspace(0, 1, 21, dtype=torch.float64, requires_grad=True)
    margins = soft_margin(labels, 0.2, kind)
    assert_same(margins, reference.soft_margin(labels, 0.2, kind), [labels])
    assert margins[0].item() == pytest.approx(0.0, abs=1e-15) and margins[-1].item() == pytest.approx(0.2)
    assert (margins.diff() > 0).all()


# -- contrastive ----------------------------------------------------------------------------------------------------

CONFIG = {"temperature": 0.3, "bound": 0.4}
every_loss = pytest.mark.parametrize("name", CONTRASTIVE)


def anchor_cost(row: list[Tensor], own: int, others: list[int], name: str) -> Tensor:
    """Return f of one anchor: `row` its scores, `own` its partner's place, `others` those of its negatives."""
    exponents = {j: torch.exp(row[j] / CONFIG["temperature"]) for j in [own, *others]}
    total = sum(exponents.values())
    p = {j: e / total for j, e in exponents.items()}
    if name == "contrastive":
        return -torch.log(p[own])
    if name == "bounded":
        return (1 - p[own] ** CONFIG["bound"]) / CONFIG["bound"]
    if name == "complementary":
        without = [sum(e for k, e in exponents.items() if k != j) for j in others]  # 1 - p_j = without_j / total
        return -sum(torch.log(rest / total) for rest in without) if others else 0 * p[own]
    tangents = sum(torch.tan(p[j]) for j in p)
    return -torch.log(p[own]) + sum(torch.tan(p[j]) for j in others) / tangents ** CONFIG["bound"]


def twin(scores: Tensor, name: str, is_negative: Tensor, hardness: float) -> Tensor:
    """Return the costs (B,), pair by pair."""
    costs = []
    for i in range(len(scores)):
        both = []
        for matrix, mask in ((scores, is_negative), (scores.t(), is_negative.t())):
            row = [matrix[i, j] for j in range(len(matrix))]
            others = [j for j in range(len(matrix)) if mask[i, j]]
            hardest = sorted(others, key=lambda j: -float(row[j].detach()))[:1]
            parts = [anchor_cost(row, i, chosen, name) for chosen in (others, hardest)]
            both.append((1 - hardness) * parts[0] + hardness * parts[1])
        costs.append((both[0] + both[1]) / 2)
    return torch.stack(costs)


@pytest.mark.parametrize("hardness", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("image_id", [None, (0, 1, 0, 2, 3, 1)])
@every_loss
def test_costs_and_gradients_are_the_twins(name: str, image_id: tuple[int, ...] | None, hardness: float) -> None:
    scores = draw(6)
    ids = None if image_id is None else torch.tensor(image_id)
    is_negative = negatives(6, ids, scores.device)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)
    found = contrastive_costs(scores, name, is_negative, **CONFIG, hardness=hardness)
    expected = twin(scores, name, is_negative, hardness)
    torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad((costs * weights).sum(), scores, retain_graph=True)[0] for costs in (found, expected)
    ]
    torch.testing.assert_close(*gradients)


@every_loss
def test_a_pair_without_negatives_costs_nothing(name: str) -> None:
    for size, ids in ((1, None), (4, torch.zeros(4, dtype=torch.long))):
        scores = draw(size)
        for hardness in (0.0, 0.5, 1.0):
            costs = contrastive_costs(scores, name, negatives(size, ids, scores.device), **CONFIG, hardness=hardness)
            assert costs.tolist() == pytest.approx([0.0] * size)
            (gradient,) = torch.autograd.grad(costs.sum(), scores)
            assert torch.isfinite(gradient).all()


@every_loss
def test_extreme_scores_stay_finite(name: str) -> None:
    scores = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    for sign in (1, -1):
        extreme = (sign * 1e4 * scores).requires_grad_()
        costs = contrastive_costs(extreme, name, negatives(2, None, scores.device), **CONFIG)
        (gradient,) = torch.autograd.grad(costs.sum(), extreme)
        assert torch.isfinite(costs).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("temperature", math.inf), ("temperature", math.nan), ("bound", 0.0), ("bound", 1.1)],
)
def test_values_out_of_range_name_their_flag(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{name}"):
        ContrastiveConfig(**{name: value})
