"""Norms, masks, and the weights of cross attention (SCAN, ECCV 2018).

Legend: I images, C captions, R regions, W words (exactly as many as each caption here has), D embed size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-8
SOFTMAX_FACTOR = 9.0
"""lambda of SCAN text-to-image attention, as SGRAF uses it."""

TINY = 1e-30
"""Squared lengths are kept from zero by this, so that their root has a finite derivative."""

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
    if not logits.is_cuda:
        low, high = torch.aminmax(logits.detach())
        is_close = bool(high - low < SAFE_SPREAD)  # not where a logit is NaN
    if not is_close:
        return torch.softmax(logits if mask is None else logits.masked_fill(~mask, float("-inf")), dim=-1)
    if torch.is_grad_enabled():
        return _ShortSoftmax.apply(logits, high, mask)
    return _normalised_exponentials(logits.sub_(high), mask)


def _normalised_exponentials(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Overwrite logits of at most 0 with their softmax."""
    logits.exp_()
    if mask is not None:
        logits.mul_(mask)
    return logits.div_(_short_sums(logits))


def _short_sums(x: Tensor) -> Tensor:
    """Sum the last dimension, of a few numbers; a product is faster than a reduction."""
    return x @ torch.ones(x.shape[-1], 1, dtype=x.dtype)


class _ShortSoftmax(torch.autograd.Function):
    """Softmax p with its derivative (g - g . p) p."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, high: Tensor, mask: Tensor | None) -> Tensor:
        shares = _normalised_exponentials(logits - high, mask)
        ctx.save_for_backward(shares)
        return shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (shares,) = ctx.saved_tensors
        return gradient.sub(_short_sums(gradient * shares)).mul_(shares), None, None


def unit_rows(x: Tensor) -> Tensor:
    """Do what `l2norm` does along the last dimension, with its derivative (g - (g . y) x / |x|) / |x| in one piece."""
    return _UnitRows.apply(x) if torch.is_grad_enabled() and not x.is_cuda else l2norm(x)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        units = x / (length + EPSILON)
        ctx.save_for_backward(units, length)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        units, length = ctx.saved_tensors
        size = length + EPSILON
        along = (gradient * units).sum(dim=-1, keepdim=True)
        along *= size / length.clamp(min=TINY)  # x / |x| is y size / |x|
        return gradient.addcmul(units, along, value=-1).div_(size)


def region_weights(affinity: Tensor, *, word_dim: int) -> Tensor:
    """Turn word-region products (..., R) into weights over regions: LeakyReLU, l2-norm over words, exp(lambda x).

    This is the softmax over regions without its denominator, which the l2-norm of the context cancels (but for the 1e-8
    in that norm: scores move by 2e-6 at most). Its arguments lie in [-lambda, lambda], so that no maximum need be taken
    out first.
    """
    affinity = F.leaky_relu(affinity, 0.1)
    squares = affinity.square().sum(dim=word_dim, keepdim=True)
    norm = squares.clamp(min=TINY).sqrt()  # the clamp keeps the gradient of a zero region finite
    return torch.exp(affinity * (SOFTMAX_FACTOR / (norm + EPSILON)))
