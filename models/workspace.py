"""Buffers that are used again and again: the system would map and clear fresh memory for every tile.

While gradients are recorded every result is a fresh tensor, since autograd keeps it, and under torch.compile, which
plans memory itself; otherwise results land in buffers that live until the next call of the same name.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor


def results_are_kept() -> bool:
    """Tell whether results must be fresh tensors."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


class Workspace(threading.local):
    """Named buffers, as large as they were ever asked for; every thread has its own."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self._uses: dict[tuple[str, torch.dtype, torch.device], object] = {}

    def empty(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return an uninitialised tensor of `shape` with the type and device of `like`."""
        if torch.compiler.is_compiling():
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        key, size = (name, like.dtype, like.device), math.prod(shape)
        self._uses[key] = object()
        buffer = self._buffers.get(key)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return buffer[:size].view(shape)

    def last_use(self, name: str, like: Tensor) -> object:
        """Return what stands for the last time that this thread was given the buffer: another object each time."""
        return self._uses.get((name, like.dtype, like.device))

    def linear(self, name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return x W^T + b for x (n, in), W (out, in)."""
        if results_are_kept():
            return torch.addmm(bias, x, weight.t())
        return torch.addmm(bias, x, weight.t(), out=self.empty(name, (len(x), len(weight)), x))

    def bmm(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """Return the products of a (n, i, k) and b (n, k, j)."""
        if results_are_kept():
            return torch.bmm(a, b)
        return torch.bmm(a, b, out=self.empty(name, (len(a), a.shape[1], b.shape[2]), a))


WORKSPACE = Workspace()
"""Shared by all networks: only one tile is computed at a time."""
