"""The loss of a batch: CLIP's own, or DSDMR's ranking loss with fixed margins or margins that follow the modes.

The reading of DSDMR's loss is ours (the authors' trainer is unpublished). Legend: B pairs, D embed size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.blocks.dynamic_margin import MarginConfig, dynamic_margins
from methods.blocks.modes import SimilarityModes
from models.losses import Margins, hardest_negative, mean_over_negatives, negatives, pair_costs

Loss = Callable[[Tensor, Tensor], Tensor]
"""Embeddings (B, D) of pictures and of captions -> scalar."""


def contrastive_loss(images: Tensor, captions: Tensor, scale: Tensor, image_id: Tensor) -> Tensor:
    """Return CLIP's symmetric cross entropy, a scalar.

    Args:
        images: (B, D) unit embeddings.
        captions: (B, D) likewise.
        scale: what cosines are multiplied by.
        image_id: (B,); other captions given to an anchor's own picture are no negatives.

    Source: Radford et al., ICML 2021, Figure 3; the mask is ours.
    """
    logits = scale * images @ captions.T
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(~negatives(len(logits), image_id, logits.device) & ~own, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def loss_function(
    loss: str,
    config: MarginConfig,
    modes: SimilarityModes | None,
    *,
    scale: Callable[[], Tensor],
    image_id: Tensor,
    probability: Tensor | None = None,
    hardest: bool = True,
) -> Loss:
    """Return the loss of a batch's embeddings.

    Args:
        loss: dynamic, triplet or contrastive.
        config: base margins and policy.
        modes: of the last filtering, for `dynamic`.
        scale: gives the logit scale, for `contrastive`.
        image_id: (B,) which picture each pair has.
        probability: (B,) clean probability, for `dynamic` with policy posterior.
        hardest: a hinge is that of an anchor's hardest negative, else the mean over all. Hardest negatives collapse a
            weak model: where they score above the match, all embeddings drawing together lowers the loss.
    """
    if loss == "contrastive":
        return lambda images, captions: contrastive_loss(images, captions, scale(), image_id)
    margins = Margins(config.image_margin, config.text_margin)
    if loss == "dynamic":
        margins = dynamic_margins(config, modes, probability)
    reduced = hardest_negative if hardest else mean_over_negatives

    def ranking_loss(images: Tensor, captions: Tensor) -> Tensor:
        costs = pair_costs(images @ captions.T, margins.image, image_id, caption_margin=margins.text)
        return reduced(costs).mean()

    return ranking_loss
