"""One training step on a batch, whole or in chunks that fit the memory; the only backward passes of this package.

A contrastive or ranking loss compares every picture with every caption of the batch, so that plain gradient
accumulation would lose the negatives of other chunks. Instead all chunks are embedded without gradient, the loss of the
full (B, B) matrix gives the gradient with respect to the embeddings, and each chunk is embedded again to carry its part
of that gradient to the weights (Gao et al., 2021, "gradient caching"). Random numbers (dropout) of both passes are the
same. Legend: B pairs, D embed size, W tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from runtime.errors import InputError
from tools.clip_tuning.model import Clip

Loss = Callable[[Tensor, Tensor], Tensor]
"""Embeddings (B, D) of pictures and of captions -> scalar."""


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
