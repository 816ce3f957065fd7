"""DSDMR's dynamic-margin ranking loss for any differentiable (B, B) score matrix: a reconstruction. Legend: B pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.blocks.dynamic_margin import MarginConfig
from models.losses import Margins, hardest_negative, pair_costs


def _like(margin: float | Tensor, scores: Tensor) -> float | Tensor:
    return margin.to(scores) if isinstance(margin, Tensor) else margin


class DynamicMarginRankingLoss(nn.Module):
    """Mean over the kept pairs i of [a_i - S_ii + max_j S_ij]+ + [b_i - S_ii + max_j S_ji]+ (*ours*).

    a is the margin of image anchors, b that of caption anchors. With a = b constant it is the plain max-violation hinge
    (VSE++, BMVC 2018) bit for bit.
    """

    def __init__(self, config: MarginConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        scores: Tensor,
        margins: Margins | None = None,
        *,
        kept: Tensor | None = None,
        image_id: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            scores: (B, B), differentiable; rows are images, columns captions, matched pairs on the diagonal.
            margins: of `dynamic_margins`; None takes the base margins.
            kept: (B,) bool, the anchors that count; None is all. Others still serve as negatives: pairs that were
                dropped belong in no batch. With no pair kept the loss is exactly 0 and has a gradient, 0.
            image_id: (B,); captions of an anchor's own image are then no negatives.
        """
        margins = margins or Margins(self.config.image_margin, self.config.text_margin)
        costs = pair_costs(scores, _like(margins.image, scores), image_id, caption_margin=_like(margins.text, scores))
        losses = hardest_negative(costs)
        if kept is not None:
            assert kept.dtype == torch.bool and kept.shape == losses.shape
            losses = losses[kept]
        return losses.mean() if len(losses) else losses.sum()
