"""Losses that depend on few of the B x B scores: look at all pairs without gradient, differentiate those that matter.

Legend: B pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.matcher import Embeddings, Matcher
from models.similarity import CrossAttention

DENSE_SHARE = 0.25
"""If more of the pairs must be scored again, scoring all of them with gradient is cheaper."""

SAFETY = 2.0
"""A score in lower precision is trusted to within so many times the largest error seen in the batch. That largest error
is taken over 2 B pairs or more, so that one beyond twice its size among B^2 is out of the question in practice."""


def hardest_loss(matcher: Matcher, embeddings: Embeddings, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `loss_of(matcher.score(embeddings))`, with the same gradient, for a loss of few scores.

    All pairs are scored without gradient, and those that the loss depends on again, with gradient. Where
    `scoring_dtype` asks for it the first look is in lower precision. Then scores that could change what the loss
    depends on are replaced by exact ones until none is left: each is shifted by the largest error up and down, and
    those that the loss then touches are scored again. What stays inexact cannot be a hardest negative.

    Args:
        matcher: the network, in train mode.
        embeddings: encoded batch, with gradient; what several processes share is scored with gradient at once.
        loss_of: (B, B) plain similarities -> scalar, monotone in each of them.
    """
    similarity = matcher.similarity
    if not isinstance(similarity, CrossAttention) or similarity.couples_pairs or embeddings.share is not None:
        return loss_of(matcher.score(embeddings))
    with torch.no_grad():
        sims = matcher.score(embeddings)
    is_exact, largest_error = torch.zeros_like(sims, dtype=torch.bool), 0.0
    wanted = torch.eye(len(sims), dtype=torch.bool, device=sims.device)
    wanted |= touched(loss_of, sims) if similarity.scoring_dtype is None else wanted.roll(1, dims=1)
    while wanted.any():
        is_exact |= wanted
        if is_exact.float().mean() > DENSE_SHARE:
            return loss_of(matcher.score(embeddings))
        pairs = wanted.nonzero(as_tuple=True)
        exact = similarity.score_pairs(embeddings.images, embeddings.captions, *pairs)
        if similarity.scoring_dtype is None:
            return loss_of(sims.index_put(pairs, exact))
        largest_error = max(largest_error, float((exact - sims[pairs]).detach().abs().max()))
        sims = sims.index_put(pairs, exact)
        shift = (SAFETY * largest_error) * ~is_exact
        wanted = (touched(loss_of, sims + shift) | touched(loss_of, sims - shift)) & ~is_exact
    return loss_of(sims)


def touched(loss_of: Callable[[Tensor], Tensor], sims: Tensor) -> Tensor:
    """Return which scores (B, B) the loss depends on, bool."""
    sims = sims.detach().requires_grad_()
    loss = loss_of(sims)
    if not loss.requires_grad:  # a loss over no pair at all is a constant
        return torch.zeros_like(sims, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(loss, sims, allow_unused=True)
    return torch.zeros_like(sims, dtype=torch.bool) if gradient is None else gradient != 0
