"""Contrastive losses against loops written from the formulas, their bounds and their edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.contrastive import CONTRASTIVE, ContrastiveConfig, contrastive_costs
from models.losses import negatives
from runtime.errors import InputError

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
        sides = []
        for matrix, mask in ((scores, is_negative), (scores.t(), is_negative.t())):
            row = [matrix[i, j] for j in range(len(matrix))]
            others = [j for j in range(len(matrix)) if mask[i, j]]
            hardest = sorted(others, key=lambda j: -float(row[j].detach()))[:1]
            parts = [anchor_cost(row, i, chosen, name) for chosen in (others, hardest)]
            sides.append((1 - hardness) * parts[0] + hardness * parts[1])
        costs.append((sides[0] + sides[1]) / 2)
    return torch.stack(costs)


def drawn(size: int, seed: int = 0) -> Tensor:
    """Return scores (size, size) with gradient."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(size, size, generator=random, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("hardness", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("image_id", [None, (0, 1, 0, 2, 3, 1)])
@every_loss
def test_costs_and_gradients_are_the_twins(name: str, image_id: tuple[int, ...] | None, hardness: float) -> None:
    scores = drawn(6)
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
        scores = drawn(size)
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


@pytest.mark.parametrize("gap", [5.0, 20.0, 100.0])
def test_complementary_pushes_the_rows_that_are_most_wrong(gap: float) -> None:
    """One negative takes the whole softmax: it is pushed away with force 1/t in each direction, however sure it is."""
    scores = torch.zeros(4, 4)
    scores[0, 2] = gap
    scores.requires_grad_()
    costs = contrastive_costs(scores, "complementary", negatives(4, None, scores.device), temperature=0.5)
    (gradient,) = torch.autograd.grad(costs[0] + costs[2], scores)
    assert gradient[0, 2] == pytest.approx(1 / 0.5, rel=1e-3) and float(costs.max().detach()) > gap / 0.5 / 2 - 1


def test_a_hopeless_pair_pulls_without_bound_only_under_infonce() -> None:
    """What makes a loss bear mismatched pairs: the force of a pair that will never match goes to 0, or stays put."""

    def force(name: str, gap: float) -> float:
        scores = torch.tensor([[0.0, gap], [gap, 0.0]], dtype=torch.float64, requires_grad=True)
        costs = contrastive_costs(scores, name, negatives(2, None, scores.device), temperature=1.0, bound=0.5)
        return float(torch.autograd.grad(costs.sum(), scores)[0].abs().max())

    assert force("contrastive", 20.0) > force("contrastive", 1.0)
    assert force("bounded", 20.0) < 1e-3 < force("bounded", 1.0)


def test_bounded_lies_between_infonce_and_one_minus_p() -> None:
    scores, is_negative = drawn(5).detach(), negatives(5, None, torch.device("cpu"))

    def costs(name: str, bound: float) -> Tensor:
        return contrastive_costs(scores, name, is_negative, temperature=0.3, bound=bound)

    torch.testing.assert_close(costs("bounded", 0.001), costs("contrastive", 1.0), rtol=2e-2, atol=0)
    assert (costs("bounded", 1.0) <= 1).all()
    assert (costs("bounded", 1.0) < costs("bounded", 0.5)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("temperature", math.inf), ("temperature", math.nan), ("bound", 0.0), ("bound", 1.1)],
)
def test_values_out_of_range_name_their_flag(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{name}"):
        ContrastiveConfig(**{name: value})
