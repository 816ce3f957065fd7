"""Differentiate only the pairs that a loss touches; exact for any loss on the score matrix.

A hinge leaves most of the B x B pairs without gradient: with hardest negatives at most 3 B carry any. So all pairs are
scored without gradient first, the loss says which scores it depends on, and only those are scored again with gradient.
Legend: B pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.matcher import Embeddings, Matcher

DENSE_SHARE = 0.4
"""If the loss touches a larger share of the pairs, scoring all of them in tiles is cheaper than one by one."""


def loss_over_touched_pairs(matcher: Matcher, embeddings: Embeddings, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `loss_of(matcher.score(embeddings))` with the same gradient, at a fraction of its cost.

    With g = d loss / d sims, sum(g * sims) has the gradient that the loss sends through the scores; the entries where g
    is zero need not be there. What the loss sends past the scores (MGCS's factors) flows as usual. The encoders have
    run once, so that both passes see the same dropout.

    Args:
        matcher: the network, in train mode.
        embeddings: encoded batch, with gradient.
        loss_of: (B, B) plain similarities -> scalar.
    """
    if matcher.similarity.differentiate_all:
        return loss_of(matcher.score(embeddings))
    with torch.no_grad():
        sims = matcher.score(embeddings.detach())
    sims.requires_grad_()
    loss = loss_of(sims)
    if not loss.requires_grad:  # a loss over no pair at all is a constant
        return loss
    (gradient,) = torch.autograd.grad(loss, sims, retain_graph=True)
    image, caption = torch.nonzero(gradient, as_tuple=True)
    if not len(image):
        return loss
    if len(image) > DENSE_SHARE * sims.numel():
        chosen = matcher.score(embeddings)[image, caption]
    else:
        chosen = matcher.similarity.score_pairs(embeddings.images, embeddings.captions, image, caption)
    through_scores = (gradient[image, caption] * chosen).sum()
    return loss + through_scores - through_scores.detach()
