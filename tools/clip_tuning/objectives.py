"""`--clip_method`: which pairs a row of the ablation trains on, and with which loss.

The rows are those of DSDMR's Table 5, as far as its text tells them; the reading is ours (the authors' trainer is
unpublished). Filter on or off and margins dynamic or fixed make four of them, so that each part's effect can be seen
alone; the other two are CLIP's own loss and no training at all. Legend: B pairs, D embed size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.blocks.dynamic_margin import DynamicMarginRankingLoss, MarginConfig, dynamic_margins
from methods.blocks.similarity_modes import SimilarityModes
from models.losses import Margins, mean_over_negatives, negatives, pair_costs

PLAIN_LOSSES = ("triplet", "contrastive")
NEGATIVES = ("hardest", "mean")
"""`--negatives`."""


@dataclass(frozen=True)
class Row:
    """What one `--clip_method` does.

    Attributes:
        filters: train on the pairs that the filter keeps, else on all.
        loss: dynamic (margins that follow the modes), triplet (base margins), contrastive, plain (what `--plain_loss`
            names), or None: no training.
        meaning: for people.
    """

    filters: bool
    loss: str | None
    meaning: str

    @property
    def needs_modes(self) -> bool:
        return self.filters or self.loss == "dynamic"


CLIP_METHODS = {
    "dsdmr": Row(True, "dynamic", "filter and dynamic margins (full)"),
    "loss_only": Row(False, "dynamic", "dynamic margins on all pairs (without GMM)"),
    "filter_only": Row(True, "plain", "--plain_loss on the filtered pairs (without its loss)"),
    "triplet": Row(False, "triplet", "base margins on all pairs"),
    "contrastive": Row(False, "contrastive", "CLIP's loss on all pairs (neither)"),
    "zero_shot": Row(False, None, "the given model as it is"),
}


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


def ranking_loss(
    config: MarginConfig, images: Tensor, captions: Tensor, margins: Margins, image_id: Tensor, *, hardest: bool
) -> Tensor:
    """Return the mean hinge on cosines, of each anchor's hardest negative or over all of them, a scalar.

    Other arguments as in `contrastive_loss`. Hardest negatives collapse a weak model: where they score above the match,
    all embeddings drawing together lowers the loss.
    """
    scores = images @ captions.T
    if hardest:
        return DynamicMarginRankingLoss(config)(scores, margins, image_id=image_id)
    return mean_over_negatives(pair_costs(scores, margins.image, image_id, caption_margin=margins.text)).mean()


def loss_function(
    loss: str,
    config: MarginConfig,
    modes: SimilarityModes | None,
    *,
    scale: Callable[[], Tensor],
    image_id: Tensor,
    probability: Tensor | None = None,
    hardest: bool = True,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of a batch's embeddings.

    Args:
        loss: dynamic, triplet or contrastive.
        config: base margins and policy.
        modes: of the last filtering, for `dynamic`.
        scale: gives the logit scale, for `contrastive`.
        image_id: (B,) which picture each pair has.
        probability: (B,) clean probability, for `dynamic` with policy posterior.
        hardest: see `ranking_loss`.
    """
    if loss == "contrastive":
        return lambda images, captions: contrastive_loss(images, captions, scale(), image_id)
    margins = Margins(config.image_margin, config.text_margin)
    if loss == "dynamic":
        margins = dynamic_margins(config, modes, probability)
    return lambda images, captions: ranking_loss(config, images, captions, margins, image_id, hardest=hardest)
