"""What a batch is trained with: a row's loss, and the step, whole or in chunks that fit the memory.

`--clip_method` names a row of DSDMR's Table 5, as far as its text tells them; the reading is ours (the authors' trainer
is unpublished). Filter on or off and margins dynamic or fixed make four of them, so that each part's effect can be seen
alone; the other two are CLIP's own loss and no training at all.

A contrastive or ranking loss compares every picture with every caption of the batch, so that plain gradient
accumulation would lose the negatives of other chunks. Instead all chunks are embedded without gradient, the loss of the
full (B, B) matrix gives the gradient with respect to the embeddings, and each chunk is embedded again to carry its part
of that gradient to the weights (Gao et al., 2021, "gradient caching"). Random numbers (dropout) of both passes are the
same. Legend: B pairs, D embed size, W tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from methods.blocks.dynamic_margin import DynamicMarginRankingLoss, MarginConfig, dynamic_margins
from methods.blocks.modes import SimilarityModes
from models.losses import Margins, mean_over_negatives, negatives, pair_costs
from runtime.errors import InputError
from tools.clip_tuning.model import Clip

Loss = Callable[[Tensor, Tensor], Tensor]
"""Embeddings (B, D) of pictures and of captions -> scalar."""

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
    hinge = DynamicMarginRankingLoss(config)

    def ranking_loss(images: Tensor, captions: Tensor) -> Tensor:
        scores = images @ captions.T
        if hardest:
            return hinge(scores, margins, image_id=image_id)
        return mean_over_negatives(pair_costs(scores, margins.image, image_id, caption_margin=margins.text)).mean()

    return ranking_loss


def random_state(device: torch.device) -> list[Tensor]:
    """Return the states of the global generators that computing on `device` uses."""
    states = [torch.get_rng_state()]
    return states + [torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Set what `random_state` returned."""
    torch.set_rng_state(states[0])
    if len(states) > 1 and device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def backward(model: Clip, pictures: Tensor, ids: Tensor, loss_of: Loss, *, chunk: int = 0) -> Tensor:
    """Add the gradient of the batch's loss to the weights' gradients; return the loss, a scalar without gradient.

    Args:
        model: in training mode.
        pictures: (B, 3, H, W) normalised.
        ids: (B, W) token ids.
        loss_of: the loss of all embeddings; parameters of its own, as the logit scale, get their gradient too.
        chunk: so many pairs are embedded with gradient at a time; 0 is all.
    """
    if not 0 < chunk < len(pictures):
        loss = loss_of(model.embed_pictures(pictures), model.embed_captions(ids))
        loss.backward()
        return loss.detach()
    parts = [slice(start, start + chunk) for start in range(0, len(pictures), chunk)]
    states, embedded = [], []
    with torch.no_grad():
        for part in parts:
            states.append(random_state(model.device))
            embedded.append((model.embed_pictures(pictures[part]), model.embed_captions(ids[part])))
    images, captions = (torch.cat(side).requires_grad_() for side in zip(*embedded, strict=True))
    loss = loss_of(images, captions)
    loss.backward()
    assert images.grad is not None and captions.grad is not None
    for part, state in zip(parts, states, strict=True):
        set_random_state(state, model.device)
        again = [model.embed_pictures(pictures[part]), model.embed_captions(ids[part])]
        torch.autograd.backward(again, [images.grad[part], captions.grad[part]])
    return loss.detach()


def train_step(
    model: Clip,
    optimiser: Optimizer,
    pictures: Tensor,
    ids: Tensor,
    loss_of: Loss,
    *,
    chunk: int = 0,
    grad_clip: float = float("inf"),
) -> float:
    """Take one step; return the loss. Arguments as in `backward`; `grad_clip` is the gradient's largest norm.

    Raises:
        InputError: the loss is NaN or infinite.
    """
    optimiser.zero_grad(set_to_none=True)
    loss = float(backward(model, pictures, ids, loss_of, chunk=chunk))
    if not abs(loss) < float("inf"):
        raise InputError(f"the loss is {loss}: training has diverged; lower the learning rate")
    clip_grad_norm_(model.parameters(), grad_clip)
    optimiser.step()
    return loss
