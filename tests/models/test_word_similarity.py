"""W (c - t)^2 + b and its written-out derivative against the twin, autograd and odd input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models import attention
from models.attention import EPSILON, l2norm, region_weights
from models.word_similarity import gram, project_differences
from tests import reference
from tests.models.networks import assert_same


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


def test_the_derivative_survives_the_next_call() -> None:
    """Buffers are shared: what backward needs must not live in them."""
    inputs = draw()
    regions, words, weight, bias = inputs
    first = project_differences(regions, gram(regions), words, weight, bias)
    with torch.no_grad():
        project_differences(-regions, gram(regions), words.flip(0), weight, bias)
    project_differences(regions, gram(regions), words.flip(1), weight, bias).sum().backward()
    assert_same(first, by_autograd(*inputs), inputs)


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


def test_epsilon_is_read_when_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests compare with exact twins without it."""
    regions, words, weight, bias = draw()
    with_epsilon = project_differences(regions, gram(regions), words, weight, bias)
    monkeypatch.setattr(attention, "EPSILON", 1e4 * EPSILON)
    assert not torch.equal(project_differences(regions, gram(regions), words, weight, bias), with_epsilon)
