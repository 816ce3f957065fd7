"""Norms, masks, and the cross attention of words to regions (SCAN, ECCV 2018; SGRAF, AAAI 2021).

Legend: I images, C captions, R regions, W words, T = C W, D embed size, S sim_dim.
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


def softmax_of_short_rows(logits: Tensor, mask: Tensor) -> Tensor:
    """Return softmax over what `mask` names of the last dimension, for very many rows of a few numbers each.

    torch's softmax pays per row. While all logits lie within `SAFE_SPREAD` of each other one maximum serves all rows:
    no row's sum can then underflow, and the rest is elementwise. Without gradients the logits are overwritten.
    """
    is_close = False
    if not logits.is_cuda:
        low, high = torch.aminmax(logits.detach())
        is_close = bool(high - low < SAFE_SPREAD)  # not where a logit is NaN
    if not is_close:
        return torch.softmax(logits.masked_fill(~mask, float("-inf")), dim=-1)
    if torch.is_grad_enabled():
        return _ShortSoftmax.apply(logits, high, mask)
    return _normalised_exponentials(logits.sub_(high), mask)


def _normalised_exponentials(logits: Tensor, mask: Tensor) -> Tensor:
    """Overwrite logits of at most 0 with their softmax."""
    logits.exp_().mul_(mask)
    return logits.div_(_short_sums(logits))


def _short_sums(x: Tensor) -> Tensor:
    """Sum the last dimension, of a few numbers; a product is faster than a reduction."""
    return x @ torch.ones(x.shape[-1], 1, dtype=x.dtype)


class _ShortSoftmax(torch.autograd.Function):
    """Softmax p with its derivative (g - g . p) p."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, high: Tensor, mask: Tensor) -> Tensor:
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


def gram(elements: Tensor) -> Tensor:
    """Return the inner products (I, R, R) of elements (I, R, D): |sum_r a_r e_r|^2 then costs R^2 and not R D."""
    return elements @ elements.transpose(1, 2)


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


def project_differences(regions: Tensor, products: Tensor, words: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return W (c - t)^2 + b for each word t and its context c in an image: nine tenths of the work of SGR and SAF.

    The derivative is written out: it keeps the word-region products and weights only, a fifteenth of what autograd
    would, and computes the differences again.

    Args:
        regions: (I, R, D).
        products: (I, R, R), `gram(regions)`.
        words: (C, W, D), scored against every image; or (I, 1, W, D), image i against caption i alone. Words that are
            not there are zero.
        weight: (S, D); without gradients it, regions and words may be of lower precision than their products.
        bias: (S,).

    Returns:
        (I, C, W, S).

    Source: SGRAF (AAAI 2021), Eq. 2-4.
    """
    shape = (len(regions), words.shape[1] if words.dim() == 4 else len(words), words.shape[-2], len(weight))
    if torch.is_grad_enabled():
        return _Projection.apply(regions, products, words, weight, bias).view(shape)
    affinity = _affinity(regions, words).to(products.dtype)
    differences = _differences(regions, words, _unit_weights(affinity, products, words.dim() == 3).to(weight.dtype))
    return F.linear(differences.square_().flatten(0, 1), weight, bias).view(shape)


def _affinity(regions: Tensor, words: Tensor) -> Tensor:
    """Return word-region products, (C, W, I, R) or, of single pairs, (I, W, R)."""
    if words.dim() == 4:
        return torch.bmm(words.squeeze(1), regions.transpose(1, 2))
    products = words.flatten(0, 1) @ regions.flatten(0, 1).t()
    return products.view(*words.shape[:2], *regions.shape[:2])


def _unit_weights(affinity: Tensor, products: Tensor, is_shared: bool) -> Tensor:
    """Return the weights (I, T, R) whose sum of regions is the l2-normalised context; T words of all captions."""
    weights = region_weights(affinity, word_dim=1)
    if is_shared:
        weights = weights.flatten(0, 1).transpose(0, 1)  # (I, T, R), no copy
    squares = ((weights @ products) * weights).sum(dim=2, keepdim=True)
    return weights / (squares.clamp(min=TINY).sqrt() + EPSILON)


def _derivative_of_unit_weights(
    affinity: Tensor, products: Tensor, unit: Tensor, gradient: Tensor, is_shared: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of affinity and products, given that of `_unit_weights`, whose result is `unit`.

    With l = leaky(A), n = |l| over the words, a = exp(lambda l / n), q = a^T G a and u = a / sqrt(q):
    da = (du - (du . u) G a / sqrt(q)) / sqrt(q), dG = -(du . u) u u^T / 2, and with dx = a da
    dl = lambda (dx - (dx . l) l / n^2) / n, both dot products over the dimension that was normalised.
    `gradient` is overwritten.
    """
    raised = F.leaky_relu(affinity, 0.1)
    length = raised.square().sum(dim=1, keepdim=True).clamp_(min=TINY).sqrt_()
    scale = SOFTMAX_FACTOR / (length + EPSILON)
    weights = torch.exp(raised * scale)
    flat = weights.flatten(0, 1).transpose(0, 1) if is_shared else weights
    mapped = flat @ products
    root = (mapped * flat).sum(dim=2, keepdim=True).clamp_(min=TINY).sqrt_()
    size = root + EPSILON
    along = (gradient * unit).sum(dim=2, keepdim=True)
    products_gradient = torch.bmm((unit * (along * size / (-2 * root))).transpose(1, 2), unit)
    inner = gradient.sub_(mapped.mul_(along / root)).div_(size).mul_(flat)
    if is_shared:
        inner = inner.transpose(0, 1).reshape(affinity.shape)
    across = (inner * raised).sum(dim=1, keepdim=True)
    inner = inner.addcmul_(raised, across * scale / (SOFTMAX_FACTOR * length), value=-1).mul_(scale)
    return torch.where(affinity > 0, inner, 0.1 * inner), products_gradient


def _differences(regions: Tensor, words: Tensor, weights: Tensor) -> Tensor:
    """Return c - t, (I, T, D)."""
    flat = words.flatten(0, -2)[None] if words.dim() == 3 else words.squeeze(1)
    return torch.baddbmm(flat.expand(len(regions), -1, -1), weights, regions, beta=-1)


class _Projection(torch.autograd.Function):
    """`project_differences` with its derivative; returns (I T, S)."""

    @staticmethod
    def forward(ctx: Any, regions: Tensor, products: Tensor, words: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        affinity = _affinity(regions, words)
        unit = _unit_weights(affinity, products, words.dim() == 3)
        ctx.save_for_backward(regions, products, words, weight, affinity, unit)
        return F.linear(_differences(regions, words, unit).square_().flatten(0, 1), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        regions, products, words, weight, affinity, unit = ctx.saved_tensors
        is_shared = words.dim() == 3
        differences = _differences(regions, words, unit)
        weight_gradient = gradient.t() @ differences.square().flatten(0, 1)
        back = (gradient @ (2 * weight)).view_as(differences).mul_(differences)  # of c; that of t is its negative
        weights_gradient = torch.bmm(back, regions.transpose(1, 2))
        affinity_gradient, products_gradient = _derivative_of_unit_weights(
            affinity, products, unit, weights_gradient, is_shared
        )
        regions_gradient = torch.bmm(unit.transpose(1, 2), back)
        if is_shared:
            through = affinity_gradient.view(back.shape[1], -1)  # (T, I R)
            words_gradient = (through @ regions.flatten(0, 1)).sub_(back.sum(dim=0)).view_as(words)
            regions_gradient.flatten(0, 1).addmm_(through.t(), words.flatten(0, 1))
        else:
            words_gradient = torch.baddbmm(back, affinity_gradient, regions, beta=-1)[:, None]
            regions_gradient.baddbmm_(affinity_gradient.transpose(1, 2), words.squeeze(1))
        return regions_gradient, products_gradient, words_gradient, weight_gradient, gradient.sum(dim=0)
