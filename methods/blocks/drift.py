"""Semantic drift between modalities (MGCS, AAAI 2026): inherent drift, alignment factors, dynamic regularisation.

f_i and g_j are pooled image and caption vectors, d_ij = f_i - g_j their drift.
Legend: B pairs, V images in the bank, D embed size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-8


def inherent_drift(
    image: Tensor,
    image_id: Tensor,
    bank_image: Tensor,
    bank_drift: Tensor,
    bank_id: Tensor,
    *,
    num_neighbours: int,
    own: bool = False,
) -> Tensor:
    """Return m_i (B, D), the mean drift of the n nearest images of image i by cosine (MGCS Eq. 4-5).

    Args:
        image: (B, D) f of the images asked for.
        image_id: (B,) their numbers.
        bank_image, bank_drift, bank_id: (V, D), (V, D), (V,) where neighbours are looked for.
        num_neighbours: n; fewer if the bank holds fewer.
        own: keep image i itself as a candidate; left out otherwise, else a mismatched pair pulls up its own factor.

    Returns:
        (B, D); zero for an image without any neighbour.
    """
    near = F.normalize(image, dim=1) @ F.normalize(bank_image, dim=1).t()  # (B, V)
    if not own:
        near = near.masked_fill(image_id[:, None] == bank_id[None, :], float("-inf"))
    top = near.topk(min(num_neighbours, near.shape[1]), dim=1)
    is_there = torch.isfinite(top.values).to(image.dtype)  # (B, n)
    total = (bank_drift[top.indices] * is_there[:, :, None]).sum(dim=1)
    return total / is_there.sum(dim=1, keepdim=True).clamp(min=1)


def alignment_factors(image: Tensor, caption: Tensor, inherent: Tensor) -> Tensor:
    """Return F (B, B) with F_ij = cos(d_ij, m_i) in [-1, 1] (MGCS Eq. 6).

    Computed from products, without a (B, B, D) tensor: <d_ij, m_i> = <f_i, m_i> - g_j . m_i and
    |d_ij|^2 = |f_i|^2 + |g_j|^2 - 2 f_i . g_j. An image without neighbours (m_i = 0) has factor 1.
    """
    product = (image * inherent).sum(dim=1, keepdim=True) - inherent @ caption.t()
    squared = image.square().sum(dim=1, keepdim=True) + caption.square().sum(dim=1) - 2 * image @ caption.t()
    length = squared.clamp(min=EPSILON).sqrt()
    size = torch.linalg.vector_norm(inherent, dim=1, keepdim=True)
    factors = (product / (length * size).clamp(min=EPSILON)).clamp(-1, 1)
    return torch.where(size > 0, factors, torch.ones_like(factors))


def dynamic_regularisation(
    sims: Tensor, image: Tensor, caption: Tensor, anchors: Tensor, *, margin: float, balance: float
) -> Tensor:
    """Return l_dr (B,), how asymmetric a pair is towards the trusted pairs of its batch (MGCS Eq. 8-12).

    With anchor a and pair u, (l_a + l_u) / 2 = (s_ua - s_au)^2, so that
    l_dr = mean over a of [(s_ua - s_au)^2 - a_dy]+ + balance |f_u - g_u|^2, a_dy = margin (1 - cos(f_u, g_u)).

    Args:
        sims: (B, B).
        image, caption: (B, D) pooled vectors f and g.
        anchors: (A,) numbers of the trusted pairs.
        margin: a2.
        balance: gamma, the weight of the squared drift.
    """
    asymmetry = (sims[:, anchors] - sims[anchors, :].t()).square()  # (B, A): s_ua - s_au
    dynamic_margin = margin * (1 - F.cosine_similarity(image, caption, dim=1))
    hinge = (asymmetry - dynamic_margin[:, None]).clamp(min=0).mean(dim=1)
    return hinge + balance * (image - caption).square().sum(dim=1)
