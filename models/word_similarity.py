"""W (c - t)^2 + b for each word t and its context c in an image: nine tenths of the arithmetic of SGR and SAF.

Source: SGRAF (AAAI 2021), Eq. 2-4. The derivative is written out: it keeps the word-region products only, a thirtieth
of what autograd would, and computes the differences again in a buffer.
Legend: I images, C captions, W words of each (exactly), T = C W, R regions, D embed size, S sim_dim.
"""

from __future__ import annotations

from typing import Any

import torch
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
        differences = _differences(regions, words, _unit_weights(affinity, products, words), weight.dtype)
        return WORKSPACE.linear("projected", differences.square_().flatten(0, 1), weight, bias).view(shape)
    return _Projection.apply(regions, products, words, weight, bias).view(shape)


def _affinity(regions: Tensor, words: Tensor) -> Tensor:
    """Return word-region products, (C, W, I, R) or, of single pairs, (I, W, R)."""
    if words.dim() == 4:
        return torch.bmm(words.squeeze(1), regions.transpose(1, 2))
    products = words.flatten(0, 1) @ regions.flatten(0, 1).t()
    return products.view(*words.shape[:2], *regions.shape[:2])


def _unit_weights(affinity: Tensor, products: Tensor, words: Tensor) -> Tensor:
    """Return the weights (I, T, R) whose sum of regions is the l2-normalised context."""
    weights = attention.region_weights(affinity, word_dim=1)
    if words.dim() == 3:
        weights = weights.flatten(0, 1).transpose(0, 1)  # (I, T, R), no copy
    squares = ((weights @ products) * weights).sum(dim=2, keepdim=True)
    return weights / (squares.clamp(min=1e-30).sqrt() + attention.EPSILON)


def _differences(regions: Tensor, words: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return c - t, (I, T, D), in a buffer."""
    flat = words.flatten(0, -2)[None] if words.dim() == 3 else words.squeeze(1)
    flat, regions, weights = flat.to(dtype), regions.to(dtype), weights.to(dtype)
    shape = (len(regions), weights.shape[1], regions.shape[2])
    return torch.baddbmm(
        flat.expand(shape), weights, regions, beta=-1, out=WORKSPACE.empty("differences", shape, regions)
    )


class _Projection(torch.autograd.Function):
    """`project_differences` with its derivative; returns (I T, S)."""

    @staticmethod
    def forward(ctx: Any, regions: Tensor, products: Tensor, words: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        affinity = _affinity(regions, words)
        weights = _unit_weights(affinity, products, words)
        ctx.save_for_backward(regions, products, words, weight, affinity)
        differences = _differences(regions, words, weights, words.dtype)
        return torch.addmm(bias, differences.square_().flatten(0, 1), weight.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        regions, products, words, weight, affinity = ctx.saved_tensors
        with torch.enable_grad():
            affinity, products = affinity.detach().requires_grad_(), products.detach().requires_grad_()
            weights = _unit_weights(affinity, products, words)
        unit = weights.detach()
        differences = _differences(regions, words, unit, words.dtype)
        flat = differences.flatten(0, 1)
        buffer = WORKSPACE.empty("gradient", tuple(flat.shape), flat)
        weight_gradient = gradient.t() @ torch.square(flat, out=buffer)
        back = (
            torch.mm(gradient, 2 * weight, out=buffer).mul_(flat).view_as(differences)
        )  # of c; that of t is its negative
        weights_gradient = torch.bmm(back, regions.transpose(1, 2))
        affinity_gradient, products_gradient = torch.autograd.grad(weights, (affinity, products), weights_gradient)
        regions_gradient = torch.bmm(unit.transpose(1, 2), back)
        if words.dim() == 4:
            words_gradient = torch.baddbmm(back, affinity_gradient, regions, beta=-1)[:, None]
            regions_gradient.baddbmm_(affinity_gradient.transpose(1, 2), words.squeeze(1))
        else:
            through = affinity_gradient.view(back.shape[1], -1)  # (T, I R)
            words_gradient = (through @ regions.flatten(0, 1)).sub_(back.sum(dim=0)).view_as(words)
            regions_gradient.flatten(0, 1).addmm_(through.t(), words.flatten(0, 1))
        return regions_gradient, products_gradient, words_gradient, weight_gradient, gradient.sum(dim=0)
