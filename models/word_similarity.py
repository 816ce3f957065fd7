"""W (c - t)^2 + b for each word t and its context c in an image: nine tenths of the arithmetic of SGR and SAF.

Source: SGRAF (AAAI 2021), Eq. 2-4. The derivative is written out: it keeps the word-region products and weights only, a
fifteenth of what autograd would. The differences lie in a buffer, and are computed again if that was used since.
Legend: I images, C captions, W words of each (exactly), T = C W, R regions, D embed size, S sim_dim.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models import attention
from models.workspace import WORKSPACE


def gram(regions: Tensor) -> Tensor:
    """Return each image's region products (I, R, R): with them |sum_r a_r e_r|^2 costs R^2 and not R D."""
    return regions @ regions.transpose(1, 2)


def project_differences(regions: Tensor, products: Tensor, words: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return W (c - t)^2 + b of every word in every image.

    Args:
        regions: (I, R, D).
        products: (I, R, R), `gram(regions)`.
        words: (C, W, D), scored against every image; or (I, 1, W, D), image i against caption i alone.
        weight: (S, D); without gradients it, regions and words may be of lower precision than their products.
        bias: (S,).

    Returns:
        (I, C, W, S).
    """
    shape = (len(regions), words.shape[1] if words.dim() == 4 else len(words), words.shape[-2], len(weight))
    if not torch.is_grad_enabled():
        affinity = _affinity(regions, words).to(products.dtype)
        differences = _differences(regions, words, _unit_weights(affinity, products, words.dim() == 3), weight.dtype)
        return WORKSPACE.linear("projected", differences.square_().flatten(0, 1), weight, bias).view(shape)
    return _Projection.apply(regions, products, words, weight, bias).view(shape)


def _affinity(regions: Tensor, words: Tensor) -> Tensor:
    """Return word-region products, (C, W, I, R) or, of single pairs, (I, W, R)."""
    if words.dim() == 4:
        return torch.bmm(words.squeeze(1), regions.transpose(1, 2))
    products = words.flatten(0, 1) @ regions.flatten(0, 1).t()
    return products.view(*words.shape[:2], *regions.shape[:2])


def _unit_weights(affinity: Tensor, products: Tensor, is_shared: bool) -> Tensor:
    """Return the weights (I, T, R) whose sum of regions is the l2-normalised context."""
    weights = attention.region_weights(affinity, word_dim=1)
    if is_shared:
        weights = weights.flatten(0, 1).transpose(0, 1)  # (I, T, R), no copy
    squares = ((weights @ products) * weights).sum(dim=2, keepdim=True)
    return weights / (squares.clamp(min=attention.TINY).sqrt() + attention.EPSILON)


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
    length = raised.square().sum(dim=1, keepdim=True).clamp_(min=attention.TINY).sqrt_()
    scale = attention.SOFTMAX_FACTOR / (length + attention.EPSILON)
    weights = torch.exp(raised * scale)
    flat = weights.flatten(0, 1).transpose(0, 1) if is_shared else weights
    mapped = flat @ products
    root = (mapped * flat).sum(dim=2, keepdim=True).clamp_(min=attention.TINY).sqrt_()
    size = root + attention.EPSILON
    along = (gradient * unit).sum(dim=2, keepdim=True)
    products_gradient = torch.bmm((unit * (along * size / (-2 * root))).transpose(1, 2), unit)
    inner = gradient.sub_(mapped.mul_(along / root)).div_(size).mul_(flat)
    if is_shared:
        inner = inner.transpose(0, 1).reshape(affinity.shape)
    across = (inner * raised).sum(dim=1, keepdim=True)
    inner = inner.addcmul_(raised, across * scale / (attention.SOFTMAX_FACTOR * length), value=-1).mul_(scale)
    return torch.where(affinity > 0, inner, 0.1 * inner), products_gradient


def _differences(regions: Tensor, words: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return c - t, (I, T, D), in a buffer."""
    flat = words.flatten(0, -2)[None] if words.dim() == 3 else words.squeeze(1)
    flat, regions, weights = flat.to(dtype), regions.to(dtype), weights.to(dtype)
    shape = (len(regions), weights.shape[1], regions.shape[2])
    return torch.baddbmm(
        flat.expand(shape), weights, regions, beta=-1, out=WORKSPACE.empty("differences", shape, regions)
    )


BUFFERS = ("differences", "squares")


def _squares_buffer(differences: Tensor) -> Tensor:
    return WORKSPACE.empty("squares", tuple(differences.shape), differences)


def _last_uses(like: Tensor) -> tuple[object, ...]:
    return tuple(WORKSPACE.last_use(name, like) for name in BUFFERS)


class _Projection(torch.autograd.Function):
    """`project_differences` with its derivative; returns (I T, S)."""

    @staticmethod
    def forward(ctx: Any, regions: Tensor, products: Tensor, words: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        affinity = _affinity(regions, words)
        weights = _unit_weights(affinity, products, words.dim() == 3)
        ctx.save_for_backward(regions, products, words, weight, affinity, weights)
        differences = _differences(regions, words, weights, words.dtype)
        squares = torch.square(differences, out=_squares_buffer(differences))
        ctx.last_uses = _last_uses(differences)
        return torch.addmm(bias, squares.flatten(0, 1), weight.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        regions, products, words, weight, affinity, unit = ctx.saved_tensors
        is_shared = words.dim() == 3
        if ctx.last_uses == _last_uses(unit):  # nobody had the buffers since
            shape = (len(regions), unit.shape[1], regions.shape[2])
            differences, squares = (WORKSPACE.empty(name, shape, unit) for name in BUFFERS)
        else:
            differences = _differences(regions, words, unit, words.dtype)
            squares = torch.square(differences, out=_squares_buffer(differences))
        flat, buffer = differences.flatten(0, 1), squares.flatten(0, 1)
        weight_gradient = gradient.t() @ buffer
        torch.mm(gradient, 2 * weight, out=buffer).mul_(flat)
        back = squares  # by now the gradient of c; that of t is its negative
        weights_gradient = torch.bmm(back, regions.transpose(1, 2))
        affinity_gradient, products_gradient = _derivative_of_unit_weights(
            affinity, products, unit, weights_gradient, is_shared
        )
        regions_gradient = torch.bmm(unit.transpose(1, 2), back)
        if not is_shared:
            words_gradient = torch.baddbmm(back, affinity_gradient, regions, beta=-1)[:, None]
            regions_gradient.baddbmm_(affinity_gradient.transpose(1, 2), words.squeeze(1))
        else:
            through = affinity_gradient.view(back.shape[1], -1)  # (T, I R)
            words_gradient = (through @ regions.flatten(0, 1)).sub_(back.sum(dim=0)).view_as(words)
            regions_gradient.flatten(0, 1).addmm_(through.t(), words.flatten(0, 1))
        return regions_gradient, products_gradient, words_gradient, weight_gradient, gradient.sum(dim=0)
