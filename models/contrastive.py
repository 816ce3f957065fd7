"""Contrastive losses per pair, from InfoNCE to those that bear mismatched pairs.

With similarities S, temperature t and softmax over the anchor's own partner and its negatives,

    p_ij = exp(S_ij / t) / sum_k exp(S_ik / t),

each loss costs an image anchor f(p_i1 .. p_iB) and a caption anchor the same of its column; a pair costs the mean of
both. A mismatched pair has p_ii near 0 for ever: InfoNCE then pulls without bound, the others with a bounded force.
Sources: InfoNCE (van den Oord et al., 2018); bounded: generalised cross-entropy (Zhang and Sabuncu, NeurIPS 2018);
complementary: RCL (TPAMI 2023), its logarithmic form; active complementary: CRCL (NeurIPS 2023), as we read it.
Legend: B pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.flags import check_choices, check_range, flag

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


def _anchor_costs(logits: Tensor, is_negative: Tensor, loss: ContrastiveLoss, bound: float, hardness: float) -> Tensor:
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
    rows = _anchor_costs(logits, is_negative, loss, bound, hardness)
    columns = _anchor_costs(logits.t(), is_negative.t(), loss, bound, hardness)
    return (rows + columns) / 2
