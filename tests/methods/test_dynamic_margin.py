"""DSDMR's margins: bounds, policies, flags."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.blocks.dynamic_margin import (
    POLICIES,
    MarginConfig,
    dynamic_margins,
)
from methods.blocks.modes import Mode, SimilarityModes, bhattacharyya
from models.losses import Margins
from runtime.errors import InputError


def modes_apart(gap: float, std: float = 0.05, *, is_split: bool = True) -> SimilarityModes:
    """Return two modes whose means lie `gap` apart."""
    noisy, clean = Mode(0.4, 0.3 - gap, std), Mode(0.6, 0.3, std)
    return SimilarityModes(noisy, clean, is_split, "", gap / std, bhattacharyya(noisy, clean), 10.0, True, 100)


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
