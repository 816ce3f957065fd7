"""Norms, masks and cross attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.attention import (
    gram,
    l2norm,
    masked_mean,
    project_differences,
    region_weights,
    softmax_of_short_rows,
    unit_rows,
    word_mask,
)
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
def test_softmax_of_short_rows_is_softmax(spread: float) -> None:
    """Close logits, far ones (where one maximum for all rows would lose some), broken ones."""
    random = torch.Generator().manual_seed(0)
    logits = (torch.randn(4, 3, 5, dtype=torch.float64, generator=random) * spread).requires_grad_()
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 2])[:, None, None]
    expected = torch.softmax(logits.masked_fill(~mask, float("-inf")), dim=-1)
    with torch.no_grad():
        found = softmax_of_short_rows(logits.clone(), mask)
    torch.testing.assert_close(found, expected, equal_nan=True)
    if spread == spread:
        assert_same(softmax_of_short_rows(logits * 1, mask), expected, [logits])


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


# -- W (c - t)^2 + b and its written-out derivative ------------------------------------------------------------------


def draw(num_words: int = 3, images: int = 3, captions: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return regions (I, 4, 5), words (C, W, 5), a weight (6, 5) and a bias (6,)."""
    random = torch.Generator().manual_seed(0)
    shapes = ((images, 4, 5), (captions, num_words, 5), (6, 5), (6,))
    regions, words, weight, bias = (torch.randn(s, generator=random, dtype=torch.float64) for s in shapes)
    return (
        l2norm(regions).requires_grad_(),
        l2norm(words).requires_grad_(),
        weight.requires_grad_(),
        bias.requires_grad_(),
    )


def by_autograd(regions: Tensor, words: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Do the same for every image and caption, step by step, and let autograd differentiate."""
    rows = []
    for image in regions:
        for caption in words:
            context = l2norm(region_weights(caption @ image.t(), word_dim=0) @ image)
            rows.append((context - caption).square() @ weight.t() + bias)
    return torch.stack(rows).view(len(regions), len(words), *rows[0].shape)


@pytest.mark.parametrize("num_words", [1, 3])
def test_values_and_gradients_are_those_of_autograd(num_words: int) -> None:
    inputs = draw(num_words)
    regions, words, weight, bias = inputs
    assert_same(project_differences(regions, gram(regions), words, weight, bias), by_autograd(*inputs), inputs)
    with torch.no_grad():
        torch.testing.assert_close(
            project_differences(regions, gram(regions), words, weight, bias), by_autograd(*inputs)
        )


def test_single_pairs_are_entries_of_the_whole() -> None:
    inputs = draw()
    regions, words, weight, bias = inputs
    image, caption = torch.tensor([2, 0, 2, 1]), torch.tensor([1, 1, 0, 0])
    chosen = project_differences(regions[image], gram(regions[image]), words[caption][:, None], weight, bias)
    assert chosen.shape == (4, 1, 3, 6)
    assert_same(chosen.squeeze(1), by_autograd(*inputs)[image, caption], inputs)


def test_contexts_are_the_twins() -> None:
    """With the identity as map the squared differences themselves come out.

    The twin divides by the softmax's sum before the norm, where 1e-8 then weighs more.
    """
    regions, words, _, _ = draw()
    twin = torch.stack([torch.stack([torch.stack(reference._contexts(r, w, 9.0)) for w in words]) for r in regions])
    identity, zero = torch.eye(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    found = project_differences(regions, gram(regions), words, identity, zero)
    assert_same(found, (twin - words).square(), [regions, words], tolerance=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e4])
@pytest.mark.parametrize("num_words", [1, 3])
def test_odd_regions_give_finite_numbers(num_words: int, scale: float) -> None:
    """A zero region among others, only zero regions, regions that are not normalised."""
    torch.manual_seed(0)
    words = torch.randn(2, num_words, 5, requires_grad=True)
    regions = scale * torch.randn(3, 4, 5)
    regions[0, 1] = 0.0
    regions.requires_grad_()
    found = project_differences(regions, gram(regions), words, torch.eye(5), torch.zeros(5))
    gradients = torch.autograd.grad(found.square().sum(), [regions, words])
    assert all(torch.isfinite(x).all() for x in (found, *gradients))
