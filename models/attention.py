"""Norms, masks, and the weights of cross attention (SCAN, ECCV 2018).

Legend: I images, C captions, R regions, W words (exactly as many as each caption here has), D embed size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-8
SOFTMAX_FACTOR = 9.0
"""lambda of SCAN text-to-image attention, as SGRAF uses it."""

SAFE_SPREAD = 80.0
"""exp(-80) is 1.8e-35, still a normal float32."""


def l2norm(x: Tensor, dim: int = -1) -> Tensor:
    """Return x / (sqrt(sum x^2) + 1e-8) along `dim`; a zero vector stays zero, with a finite gradient."""
    return x / (torch.linalg.vector_norm(x, dim=dim, keepdim=True) + EPSILON)


def word_mask(lengths: Tensor, width: int, device: torch.device) -> Tensor:
    """Return (C, W) bool, true at the words of each caption."""
    return torch.arange(width, device=device) < lengths.to(device)[:, None]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of x (C, W, D) over the words that `mask` (C, W) names, (C, D)."""
    weights = mask.to(x.dtype)
    return torch.einsum("cwd,cw->cd", x, weights) / weights.sum(1, keepdim=True)


def softmax_of_short_rows(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax over the last dimension, or what `mask` names of it, for very many rows of a few numbers each.

    torch's softmax pays per row. While all logits lie within `SAFE_SPREAD` of each other one maximum serves all rows:
    no row's sum can then underflow, and the rest is elementwise. Without gradients the logits are overwritten.
    """
    is_close = False
    if not logits.is_cuda and not torch.compiler.is_compiling():
        low, high = torch.aminmax(logits.detach())
        is_close = bool(high - low < SAFE_SPREAD)  # not where a logit is NaN
    if not is_close:
        return torch.softmax(logits if mask is None else logits.masked_fill(~mask, float("-inf")), dim=-1)
    in_place = not torch.is_grad_enabled()
    exponentials = logits.sub_(high).exp_() if in_place else torch.exp(logits - high)
    if mask is not None:
        exponentials = exponentials.mul_(mask) if in_place else exponentials * mask
    sums = exponentials @ torch.ones(logits.shape[-1], 1, dtype=logits.dtype)  # faster than a reduction of short rows
    return exponentials.div_(sums) if in_place else exponentials / sums


def region_weights(affinity: Tensor, *, word_dim: int) -> Tensor:
    """Turn word-region products (..., R) into weights over regions: LeakyReLU, l2-norm over words, exp(lambda x).

    This is the softmax over regions without its denominator, which the l2-norm of the context cancels (but for the 1e-8
    in that norm: scores move by 2e-6 at most). Its arguments lie in [-lambda, lambda], so that no maximum need be taken
    out first.
    """
    affinity = F.leaky_relu(affinity, 0.1)
    squares = affinity.square().sum(dim=word_dim, keepdim=True)
    norm = squares.clamp(min=1e-30).sqrt()  # the clamp keeps the gradient of a zero region finite
    return torch.exp(affinity * (SOFTMAX_FACTOR / (norm + EPSILON)))
