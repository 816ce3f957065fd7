"""Norms, masks and cross attention."""

from __future__ import annotations

import pytest
import torch

from models.attention import attend_pairs, attend_tile, l2norm, masked_mean, word_mask
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


def test_tiles_and_single_pairs_attend_as_the_twin() -> None:
    torch.manual_seed(0)
    regions = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    words = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    twin = torch.stack([torch.stack([torch.stack(reference._contexts(r, w, 9.0)) for w in words]) for r in regions])
    # the twin divides by the softmax's sum before the norm, where 1e-8 then weighs more
    assert_same(attend_tile(regions, words), twin, [regions, words], tolerance=1e-6)
    image, caption = torch.tensor([2, 0, 2, 1]), torch.tensor([1, 1, 0, 0])
    pairs = attend_pairs(regions[image], words[caption])
    assert_same(pairs, twin[image, caption], [regions, words], tolerance=1e-6)
    assert_same(pairs, attend_tile(regions, words)[image, caption], [regions, words])


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e4])
@pytest.mark.parametrize("num_words", [1, 3])
def test_attention_to_odd_regions_is_finite(num_words: int, scale: float) -> None:
    """A zero region among others, only zero regions, regions that are not normalised."""
    torch.manual_seed(0)
    words = torch.randn(2, num_words, 5, requires_grad=True)
    regions = scale * torch.randn(3, 4, 5)
    regions[0, 1] = 0.0
    regions.requires_grad_()
    for context in (attend_tile(regions, words), attend_pairs(regions[:2], words)):
        found = torch.autograd.grad(context.square().sum(), [regions, words])
        assert all(torch.isfinite(x).all() for x in (context, *found))
        assert context.norm(dim=-1).max() <= 1 + 1e-5
