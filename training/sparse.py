"""Losses that depend on few of the B x B scores: look at all pairs cheaply, score exactly those that matter.

The gradient is sparse by itself (models/tiles.py differentiates only what the loss touches). What is left is the look
at all pairs, and with hardest negatives it need not be exact: in lower precision, or at pooled vectors only.
Legend: B pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.matcher import Embeddings, Matcher

DENSE_SHARE = 0.25
"""If more of the pairs must be scored exactly, scoring all of them at once is cheaper."""

SAFETY = 2.0
"""A score in lower precision is trusted to within so many times the largest error seen in the batch. That largest error
is taken over 2 B pairs or more, so that one beyond twice its size among B^2 is out of the question in practice."""


def hardest_loss(matcher: Matcher, embeddings: Embeddings, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `loss_of(matcher.score(embeddings))`, with the same gradient, for a loss of few scores.

    Where `scoring_dtype` asks for it all pairs are looked at in lower precision first. Then scores that could change
    what the loss depends on are replaced by exact ones until none is left: each is shifted by the largest error up and
    down, and those that the loss then touches are scored again. What stays inexact cannot be a hardest negative.

    Args:
        matcher: the network, in train mode.
        embeddings: encoded batch, with gradient.
        loss_of: (B, B) plain similarities -> scalar, monotone in each of them.
    """
    similarity = matcher.similarity
    if similarity.scoring_dtype is None or similarity.couples_pairs:
        return loss_of(matcher.score(embeddings, sparse=True))
    fixed = embeddings.detach()
    with torch.no_grad():
        sims = matcher.score(fixed)
    size = len(sims)
    own = torch.arange(size, device=sims.device)
    is_exact = torch.zeros_like(sims, dtype=torch.bool)
    wanted = torch.zeros_like(is_exact)
    wanted[own, own] = wanted[own, own.roll(1)] = True
    largest_error = 0.0
    while wanted.any():
        is_exact |= wanted
        if is_exact.float().mean() > DENSE_SHARE:
            return loss_of(matcher.score(embeddings, sparse=True))
        with torch.no_grad():
            exact = matcher.score(fixed, wanted=wanted.cpu(), exact=True)
        largest_error = max(largest_error, float((exact - sims)[wanted].abs().max()))
        sims = torch.where(wanted, exact, sims)
        shift = (SAFETY * largest_error) * ~is_exact
        wanted = (touched(loss_of, sims + shift) | touched(loss_of, sims - shift)) & ~is_exact
    return loss_of(matcher.score(embeddings, known=sims))


def touched(loss_of: Callable[[Tensor], Tensor], sims: Tensor) -> Tensor:
    """Return which scores (B, B) the loss depends on, bool."""
    sims = sims.detach().requires_grad_()
    loss = loss_of(sims)
    if not loss.requires_grad:  # a loss over no pair at all is a constant
        return torch.zeros_like(sims, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(loss, sims, allow_unused=True)
    return torch.zeros_like(sims, dtype=torch.bool) if gradient is None else gradient != 0
