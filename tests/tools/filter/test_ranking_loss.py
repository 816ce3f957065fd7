"""DSDMR's ranking loss: its slow twin with gradients, and the plain hinge as a special case."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.blocks.dynamic_margin import MarginConfig, dynamic_margins
from models.losses import Margins, hardest_negative, pair_costs
from tests import reference
from tests.methods.test_dynamic_margin import modes_apart
from tests.models.networks import assert_same
from tools.filter.ranking_loss import DynamicMarginRankingLoss

IMAGE_IDS: list[list[int] | None] = [None, [0, 1, 0, 2, 1, 0], [5] * 6]
KEPT = [None, [True, False, True, True, False, True], [False, False, True, False, False, False], [True] * 6]


def draw(size: int = 6, seed: int = 0) -> Tensor:
    """Draw scores (size, size) of which some hinges are active and some are not."""
    random = torch.Generator().manual_seed(seed)
    scores = torch.rand(size, size, generator=random, dtype=torch.float64)
    return (scores + 0.4 * torch.eye(size)).requires_grad_()


def draw_margins(seed: int, size: int = 6) -> Tensor:
    """Draw one margin a pair."""
    random = torch.Generator().manual_seed(seed)
    return (0.1 + 0.4 * torch.rand(size, generator=random, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("image_id", IMAGE_IDS, ids=str)
@pytest.mark.parametrize("kept", KEPT, ids=str)
@pytest.mark.parametrize("image", [0.3, draw_margins(1)], ids=["scalar", "each"])
@pytest.mark.parametrize("text", [0.2, draw_margins(2)], ids=["scalar", "each"])
def test_the_loss_is_its_twin(
    image: float | Tensor, text: float | Tensor, kept: list[bool] | None, image_id: list[int] | None
) -> None:
    scores = draw()
    inputs = [scores, *(margin for margin in (image, text) if isinstance(margin, Tensor))]
    ours = DynamicMarginRankingLoss(MarginConfig())(
        scores,
        Margins(image, text),
        kept=None if kept is None else torch.tensor(kept),
        image_id=None if image_id is None else torch.tensor(image_id),
    )
    assert ours.shape == ()
    assert_same(ours, reference.dynamic_margin_loss(scores, image, text, kept, image_id), inputs)


@pytest.mark.parametrize("image_id", IMAGE_IDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fixed_and_equal_margins_are_the_plain_hinge_bit_for_bit(
    dtype: torch.dtype, image_id: list[int] | None
) -> None:
    config = MarginConfig(margin_policy="fixed", image_margin=0.2, text_margin=0.2)
    ids = None if image_id is None else torch.tensor(image_id)
    for seed in range(5):
        scores = draw(seed=seed).detach().to(dtype).requires_grad_()
        margins = dynamic_margins(config, modes_apart(0.1))
        ours = DynamicMarginRankingLoss(config)(scores, margins, image_id=ids)
        plain = hardest_negative(pair_costs(scores, 0.2, ids)).mean()
        assert ours.item() == plain.item() and ours.dtype == dtype
        assert torch.equal(*(torch.autograd.grad(loss, scores)[0] for loss in (ours, plain)))


def test_a_hand_made_case() -> None:
    """Image 0 against caption 1: .3 - .5 + .6 = .4; caption 1 against image 0: .2 - .7 + .6 = .1; else nothing."""
    scores = torch.tensor([[0.5, 0.6], [0.1, 0.7]], dtype=torch.float64)
    loss = DynamicMarginRankingLoss(MarginConfig())
    assert loss(scores).item() == pytest.approx((0.4 + 0.1) / 2)
    assert loss(scores.t()).item() == pytest.approx((0.2 - 0.5 + 0.6 + 0.3 - 0.7 + 0.6) / 2)
    assert loss(scores, Margins(0.0, 0.0)).item() == pytest.approx(0.05)
    assert loss(scores, kept=torch.tensor([True, False])).item() == pytest.approx(0.4)
    assert loss(scores, image_id=torch.tensor([4, 4])).item() == 0.0


def test_nobody_kept_costs_exactly_nothing_and_has_a_gradient() -> None:
    scores = draw()
    loss = DynamicMarginRankingLoss(MarginConfig())(scores, kept=torch.zeros(6, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.item() == 0.0 and not gradient.any()
