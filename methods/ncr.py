"""NCR: Learning with Noisy Correspondence for Cross-modal Matching (NeurIPS 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.blocks.method import Method, Scored, SoftLabels, StudentAndPeer
from models.losses import PairCosts, pair_costs


def num_anchors(num_pairs: int) -> int:
    """Return how many of a batch's pairs are its most trusted ones: B // 10 + 1."""
    return num_pairs // 10 + 1


def predicted_correspondence(costs: PairCosts, margin: float) -> Tensor:
    """Return p (B,) in [0, 1], how well the network itself thinks each pair matches.

    p = clip(a1 - (mean cost_i2t + mean cost_t2i) / 2, 0, a1), divided by the mean of its B // 10 + 1 largest values and
    clipped at 1; all zero if no pair is above zero. Source: NCR (NeurIPS 2021), Eq. 6-8.
    """
    mean_cost = (costs.i2t.mean(dim=1) + costs.t2i.mean(dim=0)) / 2
    p = (margin - mean_cost).clamp(0, margin)
    top = p.topk(num_anchors(len(p))).values.mean()
    return (p / top).clamp(0, 1) if top > 0 else torch.zeros_like(p)


class NCR(Method):
    """Divide by loss; relabel the clean side by w + (1 - w) p, the noisy side by both networks' mean p."""

    def _prediction(self, scored: Scored) -> Tensor:
        margin = self.config.margin
        return predicted_correspondence(pair_costs(scored.scores, margin, self.image_groups(scored.batch)), margin)

    def refine(self, clean: StudentAndPeer, noisy: StudentAndPeer | None, probability: Tensor) -> SoftLabels:
        """Return NCR's labels (section 3.3)."""
        labels = probability + (1 - probability) * self._prediction(clean.student)
        if noisy is None:
            return SoftLabels(clean=labels)
        predicted = (self._prediction(noisy.student) + self._prediction(noisy.peer)) / 2
        return SoftLabels(clean=labels, noisy=predicted, noisy_kept=torch.ones_like(predicted, dtype=torch.bool))


METHOD = NCR
