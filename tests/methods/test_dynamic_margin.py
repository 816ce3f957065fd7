"""DSDMR's margins and ranking loss: slow twins with gradients, bounds, policies, the plain hinge as a special case."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.blocks.dynamic_margin import (
    POLICIES,
    DynamicMarginRankingLoss,
    MarginConfig,
    dynamic_margins,
)
from methods.blocks.modes import Mode, SimilarityModes, bhattacharyya, fit_similarity_modes
from models.losses import Margins, hardest_negative, pair_costs
from runtime.errors import InputError
from tests import reference
from tests.models.networks import assert_same

IMAGE_IDS: list[list[int] | None] = [None, [0, 1, 0, 2, 1, 0], [5] * 6]
KEPT = [None, [True, False, True, True, False, True], [False, False, True, False, False, False], [True] * 6]


def modes_apart(gap: float, std: float = 0.05, *, is_split: bool = True) -> SimilarityModes:
    """Return two modes whose means lie `gap` apart."""
    noisy, clean = Mode(0.4, 0.3 - gap, std), Mode(0.6, 0.3, std)
    return SimilarityModes(noisy, clean, is_split, "", gap / std, bhattacharyya(noisy, clean), 10.0, True, 100)


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
@pytest.mark.parametrize("caption_margin", [None, 0.1, draw_margins(3)], ids=["none", "scalar", "each"])
def test_caption_anchors_may_have_a_margin_of_their_own(
    caption_margin: float | Tensor | None, image_id: list[int] | None
) -> None:
    scores = draw()
    ids = None if image_id is None else torch.tensor(image_id)
    costs = pair_costs(scores, 0.3, ids, caption_margin=caption_margin)
    twin = reference.pair_costs(scores, 0.3, image_id, caption_margin)
    assert_same(costs.i2t, twin["cost_i2t"], [scores])
    assert_same(costs.t2i, twin["cost_t2i"], [scores])
    assert torch.equal(costs.i2t, pair_costs(scores, 0.3, ids).i2t)
    with pytest.raises(AssertionError):
        pair_costs(scores, 0.3, caption_margin=torch.zeros(5))


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


def test_without_negatives_the_loss_is_zero() -> None:
    scores = torch.full((1, 1), 0.5, requires_grad=True)
    loss = DynamicMarginRankingLoss(MarginConfig())(scores)
    assert loss.item() == 0.0 and torch.autograd.grad(loss, scores)[0].item() == 0.0


def test_scores_of_a_model_keep_their_precision() -> None:
    """Margins come from float64 probabilities; the loss stays in the scores' type."""
    config = MarginConfig(margin_policy="posterior")
    margins = dynamic_margins(config, modes_apart(0.1), torch.full((6,), 0.5, dtype=torch.float64))
    scores = draw().detach().float()
    loss = DynamicMarginRankingLoss(config)(scores, margins)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference.dynamic_margin_loss(scores, 0.15, 0.1).item(), rel=1e-6)


def test_separation_margins_are_bounded_and_rise_with_overlap() -> None:
    config = MarginConfig()
    gaps = np.linspace(0.4, 0.0, 21)
    found = [dynamic_margins(config, modes_apart(gap)) for gap in gaps]
    image, text = np.array([float(m.image) for m in found]), np.array([float(m.text) for m in found])
    overlaps = np.array([modes_apart(gap).overlap for gap in gaps])
    assert np.all(np.diff(overlaps) > 0) and np.all(np.diff(image) > 0) and np.all(np.diff(text) > 0)
    np.testing.assert_allclose(image, 0.3 * (1 + overlaps), rtol=1e-12)
    np.testing.assert_allclose(text, 0.2 * (1 + overlaps), rtol=1e-12)
    tight = MarginConfig(margin_kappa=5.0, margin_min=0.25, margin_max=0.7)
    bounded = [dynamic_margins(tight, modes_apart(gap)) for gap in gaps]
    assert (bounded[-1].image, bounded[-1].text) == (0.7, 0.7) and bounded[0].text == 0.25
    assert all(0.25 <= value <= 0.7 for m in bounded for value in (m.image, m.text))
    assert dynamic_margins(MarginConfig(margin_kappa=0.0), modes_apart(0.0)) == Margins(0.3, 0.2)


def test_overlap_counts_the_modes_widths() -> None:
    narrow, broad = (dynamic_margins(MarginConfig(), modes_apart(0.1, std)).image for std in (0.02, 0.08))
    assert isinstance(narrow, float) and isinstance(broad, float) and 0.3 < narrow < 0.32 and broad > 0.5


def test_posterior_margins_are_shares_without_a_gradient() -> None:
    config = MarginConfig(margin_policy="posterior")
    probability = torch.tensor([1.0, 0.5, 0.0], requires_grad=True)
    margins = dynamic_margins(config, modes_apart(0.2), probability)
    assert isinstance(margins.image, Tensor) and isinstance(margins.text, Tensor)
    torch.testing.assert_close(margins.image, torch.tensor([0.3, 0.15, 0.0]))
    torch.testing.assert_close(margins.text, torch.tensor([0.2, 0.1, 0.0]))
    assert not margins.image.requires_grad and not margins.text.requires_grad
    with pytest.raises(ValueError, match="posterior needs the clean probability"):
        dynamic_margins(config, modes_apart(0.2))


@pytest.mark.parametrize("policy", POLICIES)
def test_without_two_modes_margins_are_fixed(policy: str) -> None:
    config = MarginConfig(margin_policy=policy, margin_min=0.25, margin_max=0.28)
    for modes in (None, modes_apart(0.1, is_split=False)):
        assert dynamic_margins(config, modes, torch.tensor([0.5])) == Margins(0.3, 0.2)


def test_fixed_margins_see_no_bounds() -> None:
    config = MarginConfig(margin_policy="fixed", margin_min=0.25, margin_max=0.28)
    assert dynamic_margins(config, modes_apart(0.1)) == Margins(0.3, 0.2)


def test_margins_of_fitted_modes() -> None:
    """The modes of Flickr30K before and after the authors' training: the margins shrink as the modes part."""
    random = np.random.default_rng(0)
    before = np.concatenate([random.normal(0.169, 0.041, 2000), random.normal(0.313, 0.035, 8000)])
    after = np.concatenate([random.normal(-0.034, 0.076, 2000), random.normal(0.376, 0.069, 8000)])
    wide, close = (dynamic_margins(MarginConfig(), fit_similarity_modes(s)) for s in (before, after))
    assert wide.image == pytest.approx(0.3 * 1.166, abs=0.01) and close.image == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("name", ["image_margin", "text_margin", "margin_kappa", "margin_min", "margin_max"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_flags_are_checked(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{name} "):
        MarginConfig(**{name: value})  # type: ignore[arg-type]


def test_bounds_and_policies_are_checked() -> None:
    with pytest.raises(InputError, match="--margin_max 0.1 .*at least 0.2"):
        MarginConfig(margin_min=0.2, margin_max=0.1)
    with pytest.raises(InputError, match="--margin_policy 'soft' is unknown; known: fixed, separation, posterior"):
        MarginConfig(margin_policy="soft")
