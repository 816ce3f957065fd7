"""Looking at all pairs cheaply changes neither the loss nor its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models import matcher as module
from models.losses import hardest_negative, pair_costs
from models.matcher import Embeddings, Matcher, hardest_loss, touched
from models.sgraf import SGR
from tests.models.networks import dense_scores, gradients, make_batch, make_matcher

SIZE = 16
LENGTHS = tuple(2 + k % 4 for k in range(SIZE))


def hinge(scores: Tensor) -> Tensor:
    return hardest_negative(pair_costs(scores, 0.2)).sum()


def draw(seed: int = 0, name: str = "SGR") -> tuple[Matcher, Embeddings]:
    """Return a matcher in train mode and a batch it has encoded."""
    matcher = make_matcher(name, seed=seed).train()
    return matcher, matcher.embed(make_batch(LENGTHS, seed=seed))


def spoil(monkeypatch: pytest.MonkeyPatch, matcher: Matcher, noise: Tensor) -> list[int]:
    """Let low precision add given errors to the scores; return a list that collects how many were scored exactly."""
    exactly: list[int] = []
    all_pairs, listed = SGR.forward, SGR.score_pairs

    def forward(self: SGR, images: Any, captions: Any) -> Tensor:
        sims = all_pairs(self, images, captions)
        return sims if torch.is_grad_enabled() else sims + noise

    def score_pairs(self: SGR, images: Any, captions: Any, image: Tensor, caption: Tensor) -> Tensor:
        exactly.append(len(image))
        return listed(self, images, captions, image, caption)

    monkeypatch.setattr(SGR, "forward", forward)
    monkeypatch.setattr(SGR, "score_pairs", score_pairs)
    monkeypatch.setattr(SGR, "scoring_dtype", torch.float64)  # what `forward` gives is inexact by the noise alone
    return exactly


def signed(factors: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a hinge that sees scores times factors of either sign, as MGCS has it."""
    return lambda sims: hinge(sims * factors)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_factors", [False, True])
def test_hardest_negatives_are_those_of_exact_scores(
    monkeypatch: pytest.MonkeyPatch, with_factors: bool, seed: int
) -> None:
    """Errors as large as the differences between scores, which swap many hardest negatives."""
    random = torch.Generator().manual_seed(seed)
    matcher, embeddings = draw(seed)
    factors = 1 + 0.01 * torch.rand(SIZE, SIZE, generator=random, dtype=torch.float64)
    factors[: SIZE // 2] *= -1  # there, the smallest similarity is the hardest negative
    loss_of = signed(factors) if with_factors else hinge
    exact = loss_of(dense_scores(matcher, embeddings))
    expected = gradients(exact, matcher.parameters())
    spread = float(matcher.score(embeddings).detach().std())
    noise = 0.5 * spread * (torch.rand(SIZE, SIZE, generator=random, dtype=torch.float64) - 0.5)
    sims = matcher.score(embeddings).detach()
    assert not torch.equal(touched(loss_of, sims), touched(loss_of, sims + noise)), "the errors change nothing"
    monkeypatch.setattr(module, "DENSE_SHARE", 1.0)
    exactly = spoil(monkeypatch, matcher, noise)
    loss = hardest_loss(matcher, embeddings, loss_of)
    torch.testing.assert_close(loss, exact)
    for own, wanted in zip(gradients(loss, matcher.parameters()), expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-8, atol=1e-11)
    assert 2 * SIZE < sum(exactly) < SIZE * SIZE


def test_small_errors_need_few_exact_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    matcher, embeddings = draw()
    noise = 1e-6 * torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exactly = spoil(monkeypatch, matcher, noise)
    monkeypatch.setattr(module, "DENSE_SHARE", 1.0)
    hardest_loss(matcher, embeddings, hinge)
    assert sum(exactly) <= 4 * SIZE, "two diagonals and at most a negative a row and column"


def test_too_many_near_ties_are_scored_densely(monkeypatch: pytest.MonkeyPatch) -> None:
    matcher, embeddings = draw()
    exactly = spoil(monkeypatch, matcher, torch.zeros(SIZE, SIZE, dtype=torch.float64))
    monkeypatch.setattr(module, "DENSE_SHARE", 0.0)
    loss = hardest_loss(matcher, embeddings, hinge)
    torch.testing.assert_close(loss, hinge(dense_scores(matcher, embeddings)))
    assert not exactly


@pytest.mark.parametrize("name", ["SGR", "SCAN_t2i", "SCAN_i2t"])
def test_real_bfloat16_gives_the_same_loss_and_gradient(name: str) -> None:
    matcher, embeddings = draw(3, name)
    exact = hinge(dense_scores(matcher, embeddings))
    expected = gradients(exact, matcher.parameters())
    with torch.no_grad():
        full = matcher.score(embeddings)
        matcher.similarity.scoring_dtype = torch.bfloat16
        assert 1e-6 < (matcher.score(embeddings) - full).abs().max() < 0.05, "lower precision, but near"
    loss = hardest_loss(matcher, embeddings, hinge)
    torch.testing.assert_close(loss, exact)
    for own, wanted in zip(gradients(loss, matcher.parameters()), expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-8, atol=1e-11)


def test_a_loss_that_is_zero_needs_no_gradient() -> None:
    matcher, embeddings = draw()
    matcher.similarity.scoring_dtype = torch.bfloat16
    loss = hardest_loss(matcher, embeddings, lambda sims: (sims - 5).clamp(min=0).sum())
    assert float(loss.detach()) == 0.0
