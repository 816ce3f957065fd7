"""Dropout whose mask costs a tenth of torch's on a processor, where torch draws one number after another.

A 64-bit random number decides four elements, each by 16 bits: the probability is p rounded to 1/65536, and what is kept
is scaled by exactly what that leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16


@dataclass(frozen=True)
class Rows:
    """Some rows of something that has `total`: they get the masks that they would get among all."""

    rows: slice
    total: int


def set_generator(module: nn.Module, generator: torch.Generator) -> None:
    """Let every dropout of a network draw from a generator of its own (on CUDA torch's global one is used)."""
    for part in module.modules():
        if isinstance(part, Dropout):
            part.generator = generator


class Draws:
    """Lets parts of something be computed one after the other, and again, each with the masks that the whole gets.

    Where there is no generator, torch's own is used, and what restores it is torch's checkpointing.
    """

    def __init__(self, generator: torch.Generator | None) -> None:
        self._generator = generator
        self._start = None if generator is None else generator.get_state()

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the contexts of a part's computation and of its repetition."""
        return self._from_start(returns=False), self._from_start(returns=True)

    @contextmanager
    def _from_start(self, *, returns: bool) -> Iterator[None]:
        if self._generator is None or self._start is None:
            yield
            return
        before = self._generator.get_state()
        self._generator.set_state(self._start)
        try:
            yield
        finally:
            if returns:
                self._generator.set_state(before)


class Dropout(nn.Module):
    """Set elements to zero with probability `p` in training and scale the others up."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor, part: Rows | None = None) -> Tensor:
        """Drop elements of x, of any shape; draws from `generator`, or where there is none from torch's global one.

        Args:
            part: x holds these rows of something larger; as much is drawn as that would need.
        """
        if not self.training or self.p == 0.0:
            return x
        shape = x.shape if part is None else (part.total, *x.shape[1:])
        rows = slice(None) if part is None else part.rows
        if x.device.type != "cpu":
            return F.dropout(x, self.p) if part is None else x * F.dropout(x.new_ones(shape), self.p)[rows]
        dropped, count = round(self.p * LEVELS), math.prod(shape)
        draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=self.generator)
        kept = draws.view(torch.int16)[:count].view(shape)[rows] >= dropped - LEVELS // 2
        return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))

    def extra_repr(self) -> str:
        """Show p, as torch's dropout does."""
        return f"p={self.p}"
