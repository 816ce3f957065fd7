"""Soft labels: NCR's prediction, BiCro's bidirectional cross-modal similarity consistency.

Legend: B pairs, A anchors, D embed size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses import PairCosts

NOISE_TRAIN = ("train", "noise_soft", "noise_hard")


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


def most_trusted(p: Tensor) -> Tensor:
    """Return the numbers (A,) of the B // 10 + 1 pairs of highest p; of equal ones, the later."""
    return torch.argsort(p, stable=True)[-num_anchors(len(p)) :]


def _ratio(x: Tensor, z: Tensor) -> Tensor:
    """Return min(x/z, z/x); 0 where a cosine is not positive, where the ratio would mean nothing."""
    low, high = torch.minimum(x, z), torch.maximum(x, z)
    return torch.where(low > 0, low / high.clamp(min=1e-12), torch.zeros_like(low))


def similarity_consistency(image: Tensor, caption: Tensor, anchor_image: Tensor, anchor_caption: Tensor) -> Tensor:
    """Return y* (B,) in [0, 1]: a pair's distances to a trusted pair should agree in both modalities.

    With a the anchor nearest by image and b the one nearest by caption (cosine), and r(x, z) = min(x/z, z/x):
    y* = [r(cosI(u, a), cosT(u, a)) + r(cosT(u, b), cosI(u, b))] / 2.

    Args:
        image, caption: (B, D) pooled vectors of the pairs.
        anchor_image, anchor_caption: (A, D) of the anchors.

    Source: BiCro (CVPR 2023), Eq. 4-6.
    """
    by_image = F.normalize(image, dim=1) @ F.normalize(anchor_image, dim=1).t()  # (B, A)
    by_caption = F.normalize(caption, dim=1) @ F.normalize(anchor_caption, dim=1).t()
    a, b = by_image.argmax(dim=1, keepdim=True), by_caption.argmax(dim=1, keepdim=True)
    first = _ratio(by_image.gather(1, a), by_caption.gather(1, a))
    second = _ratio(by_caption.gather(1, b), by_image.gather(1, b))
    return ((first + second) / 2).squeeze(1).clamp(0, 1)
