"""Losses of a batch: hinge costs with soft margins, and contrastive losses.

Rows of every score matrix are images, columns captions; the matched pair of row i is column i. A loss is per-pair
costs, then a named reduction. Legend: B pairs.

Hinge: VSE++ (BMVC 2018); NCR (NeurIPS 2021), Eq. 1; MGCS (AAAI 2026), Eq. 14.

Contrastive losses, from InfoNCE to those that bear mismatched pairs: with similarities S, temperature t and softmax
over the anchor's own partner and its negatives,

    p_ij = exp(S_ij / t) / sum_k exp(S_ik / t),

each loss costs an image anchor f(p_i1 .. p_iB) and a caption anchor the same of its column; a pair costs the mean of
both. A mismatched pair has p_ii near 0 for ever: InfoNCE then pulls without bound, the others with a bounded force.
Sources: InfoNCE (van den Oord et al., 2018); bounded: generalised cross-entropy (Zhang and Sabuncu, NeurIPS 2018);
complementary: RCL (TPAMI 2023), its logarithmic form; active complementary: CRCL (NeurIPS 2023), as we read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.flags import check_choices, check_range, flag

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
    """Return each pair's mean cost (B,): row mean + column mean, each divided by B, as NCR does it."""
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


HINGE = "hinge"

BOUND, SMALLEST_BOUND = 0.3, 1e-3
"""q where nothing is known of the pairs, and the smallest there is."""


@dataclass(frozen=True)
class ContrastiveConfig:
    """Flags of the contrastive losses."""

    temperature: float = flag(0.07, "contrastive losses: scores are divided by this before the softmax")
    bound: float | None = flag(
        None,
        "q of --loss bounded and active_complementary in (0, 1]: near 0 like InfoNCE, 1 bears most mismatches (unset: "
        "0.3; after a division with --signal consensus the share of mismatched pairs that it estimates)",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "temperature", low=1e-4, high=float("inf"), high_open=True)
        if self.bound is not None:
            check_range(self, "bound", low=SMALLEST_BOUND, high=1.0)


def _contrastive(log_p: Tensor, own: Tensor, bound: float) -> Tensor:
    """Return -log p_ii."""
    return -own


def _bounded(log_p: Tensor, own: Tensor, bound: float) -> Tensor:
    """Return (1 - p_ii^q) / q: at most 1/q, with gradient p_ii^q times that of InfoNCE."""
    return -torch.expm1(bound * own) / bound


def _complementary(log_p: Tensor, own: Tensor, bound: float) -> Tensor:
    """Return -sum over negatives of log(1 - p_ij): what does not match is told apart, nothing is pulled."""
    eye = torch.eye(len(log_p), dtype=torch.bool, device=log_p.device)
    largest = torch.zeros_like(eye).scatter(1, log_p.detach().argmax(dim=1, keepdim=True), True) & ~eye
    small = log_p.exp().masked_fill(largest | eye, 0.0)  # at most 1/2 each
    rest = log_p.masked_fill(largest, -torch.inf).logsumexp(dim=1)  # log(1 - p) of the largest, exact up to p = 1; or 0
    return -torch.log1p(-small).sum(dim=1) - torch.where(largest.any(dim=1), rest, 0.0)


def _active_complementary(log_p: Tensor, own: Tensor, bound: float) -> Tensor:
    """Return -log p_ii + sum over negatives of tan p_ij / (sum over all of tan p_ij)^q."""
    tangents = log_p.exp().tan()
    total = tangents.sum(dim=1)
    robust = (total - tangents.diagonal()) / total.pow(bound)
    return robust - own


ContrastiveLoss = Callable[[Tensor, Tensor, float], Tensor]
CONTRASTIVE: dict[str, ContrastiveLoss] = {
    "contrastive": _contrastive,
    "bounded": _bounded,
    "complementary": _complementary,
    "active_complementary": _active_complementary,
}
"""`--loss` besides the hinge: name -> cost (B,) of log p (B, B) of the anchors on the rows, log p_ii (B,) and q."""

LOSSES = (HINGE, *CONTRASTIVE)


def _softmax_costs(logits: Tensor, is_negative: Tensor, loss: ContrastiveLoss, bound: float, hardness: float) -> Tensor:
    """Return the costs (B,) of the anchors on the rows."""
    eye = torch.eye(len(logits), dtype=torch.bool, device=logits.device)

    def against(candidates: Tensor) -> Tensor:
        log_p = logits.masked_fill(~(candidates | eye), -torch.inf).log_softmax(dim=1)
        return loss(log_p, log_p.diagonal(), bound)

    if hardness == 0.0:
        return against(is_negative)
    hardest = logits.detach().masked_fill(~is_negative, -torch.inf).argmax(dim=1, keepdim=True)
    alone = torch.zeros_like(is_negative).scatter(1, hardest, True) & is_negative
    if hardness == 1.0:
        return against(alone)
    return (1 - hardness) * against(is_negative) + hardness * against(alone)


def contrastive_costs(
    scores: Tensor, name: str, is_negative: Tensor, *, temperature: float, bound: float = BOUND, hardness: float = 0.0
) -> Tensor:
    """Return the cost of each pair (B,): the mean of its image's as anchor and its caption's.

    Args:
        scores: (B, B), rows images, columns captions.
        name: a key of `CONTRASTIVE`.
        is_negative: (B, B) bool, never on the diagonal; what is neither negative nor diagonal does not count.
        temperature: t.
        bound: q, in (0, 1].
        hardness: 0 contrasts with all negatives, 1 with the hardest alone, between mixes the two. Without any negative
            a pair costs 0.
    """
    assert scores.shape == is_negative.shape and scores.dim() == 2
    logits, loss = scores / temperature, CONTRASTIVE[name]
    rows = _softmax_costs(logits, is_negative, loss, bound, hardness)
    columns = _softmax_costs(logits.t(), is_negative.t(), loss, bound, hardness)
    return (rows + columns) / 2
