"""Hinge costs, soft margins and reductions (VSE++, BMVC 2018; NCR, NeurIPS 2021, Eq. 1; MGCS, AAAI 2026, Eq. 14).

Rows of every score matrix are images, columns captions; the matched pair of row i is column i.
A loss is per-pair costs, then a named reduction. Legend: B pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SOFT_MARGIN_BASE = 10.0
"""m of the exponential soft margin."""


@dataclass(frozen=True)
class PairCosts:
    """Hinge costs (B, B) of image i against caption j: `i2t` with image i as anchor, `t2i` with caption j."""

    i2t: Tensor
    t2i: Tensor


def _anchor_costs(scores: Tensor, margin: Tensor | float, is_negative: Tensor) -> Tensor:
    """Return [a_i - S[i, i] + S[i, j]]+ for anchors on the rows, zero where there is no negative."""
    anchor_margin = margin[:, None] if isinstance(margin, Tensor) else margin
    costs = (anchor_margin - scores.diagonal()[:, None] + scores).clamp(min=0)
    return costs.masked_fill(~is_negative, 0.0)


def negatives(size: int, image_id: Tensor | None, device: torch.device) -> Tensor:
    """Return (B, B) bool: the pair is a negative, off the diagonal and, given `image_id` (B,), of another image."""
    is_negative = ~torch.eye(size, dtype=torch.bool, device=device)
    if image_id is not None:
        is_negative = is_negative & (image_id[:, None] != image_id[None, :])
    return is_negative


@dataclass(frozen=True)
class Margins:
    """Margins of image and caption anchors: numbers, or (B,) one for each anchor."""

    image: float | Tensor
    text: float | Tensor


def pair_costs(
    scores: Tensor,
    margin: Tensor | float,
    image_id: Tensor | None = None,
    *,
    caption_margin: Tensor | float | None = None,
) -> PairCosts:
    """Return both hinge costs of every negative.

    Args:
        scores: (B, B).
        margin: a number, or (B,) one for each anchor: image i's in `i2t`, caption j's in `t2i`.
        image_id: (B,); captions of an anchor's own image are then no negatives.
        caption_margin: a number, or (B,), of caption anchors if they have another one than images; None: the same.

    Source: VSE++ Eq. 5; NCR Eq. 1; the margin belongs to the anchor. Two margins: DSDMR (TOIS 2024).
    """
    assert scores.dim() == 2 and scores.shape[0] == scores.shape[1]
    caption_margin = margin if caption_margin is None else caption_margin
    for given in (margin, caption_margin):
        assert not isinstance(given, Tensor) or given.shape == scores.shape[:1]
    is_negative = negatives(len(scores), image_id, scores.device)
    return PairCosts(
        i2t=_anchor_costs(scores, margin, is_negative),
        t2i=_anchor_costs(scores.t(), caption_margin, is_negative).t(),
    )


def mean_over_negatives(costs: PairCosts) -> Tensor:
    """Return each pair's mean cost (B,): row mean + column mean, over B and not B - 1 as NCR does."""
    return costs.i2t.mean(dim=1) + costs.t2i.mean(dim=0)


def hardest_negative(costs: PairCosts) -> Tensor:
    """Return each pair's largest cost (B,): row maximum + column maximum."""
    return costs.i2t.amax(dim=1) + costs.t2i.amax(dim=0)


def _linear(labels: Tensor) -> Tensor:
    return labels


def _exponential(labels: Tensor) -> Tensor:
    return (SOFT_MARGIN_BASE**labels - 1) / (SOFT_MARGIN_BASE - 1)


def _sin(labels: Tensor) -> Tensor:
    return torch.sin(math.pi * labels - math.pi / 2) / 2 + 0.5


SOFT_MARGINS: dict[str, Callable[[Tensor], Tensor]] = {"linear": _linear, "exponential": _exponential, "sin": _sin}
"""`--soft_margin`: name -> share of the full margin that a soft label in [0, 1] gets."""


def soft_margin(labels: Tensor, margin: float, kind: str) -> Tensor:
    """Return each pair's margin (B,): the full one at label 1, none at label 0 (NCR Eq. 9, MGCS Eq. 14)."""
    assert labels.dim() == 1
    return margin * SOFT_MARGINS[kind](labels)
