"""Rows of vectors made to length 1 as they are asked for, so that no second copy of them is in memory.

Legend: N rows, D dimensions, n of the rows, m numbers of rows for each of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.errors import InputError

CHECKED = 2**22
"""So many numbers are looked at at a time: 16 MiB."""

MULTIPLIED = 2**20
"""So many numbers are multiplied at a time: 4 MiB stay in a cache, which halves the time."""

TAME = 1e15
"""Lengths up to this, and from its inverse on, take part in products as they are."""


class UnitRows:
    """Vectors of length 1; a row of zeros stays one, so that its cosine with everything is 0.

    Args:
        rows: (N, D) floats of any type, of any length, contiguous or not; kept as they are.
        name: what they are, for the message.

    Raises:
        InputError: NaN or infinity; names the first row.
    """

    def __init__(self, rows: Tensor, name: str = "row") -> None:
        assert rows.ndim == 2 and rows.is_floating_point(), "rows of floats"
        self._rows = rows.detach()
        peaks, lengths = [], []
        for part in self._rows.split(max(1, CHECKED // max(1, rows.shape[1]))):
            part = part.float()
            peak = part.abs().amax(dim=1) if rows.shape[1] else part.new_zeros(len(part))  # NaN is passed on
            peaks.append(torch.where(peak == 0, torch.ones_like(peak), peak))
            lengths.append((part / peaks[-1][:, None]).norm(dim=1))  # squares of very long rows would overflow
        self._peak = torch.cat(peaks) if peaks else rows.new_zeros(0, dtype=torch.float32)
        if not (is_number := self._peak.isfinite()).all():
            raise InputError(f"{name} {int((~is_number).nonzero()[0])} holds NaN or infinity: it has no neighbours")
        length = torch.cat(lengths) if lengths else self._peak
        self._length = torch.where(length == 0, torch.ones_like(length), length)
        whole = self._peak * self._length
        self._whole = whole if ((whole > 1 / TAME) & (whole < TAME)).all() else None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size(self) -> int:
        """D."""
        return self._rows.shape[1]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._rows.device

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        """Return rows (n, D), float32, by a slice or by numbers (n,)."""
        part = self._rows[which].to(torch.float32, copy=True)
        return part.div_(self._peak[which][:, None]).div_(self._length[which][:, None])

    def products(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        """Return the products (n, m) of vectors (n, D) with, of each, its own rows `numbers` (n, m) at length 1."""
        which = numbers.flatten()
        others = self[which] if self._whole is None else self._rows.index_select(0, which).float()
        product = others.view(*numbers.shape, self.size).mul_(vectors[:, None]).sum(dim=2)
        return product if self._whole is None else product.div_(self._whole[numbers])

    def some(self, which: Tensor) -> UnitRows:
        """Return a copy of rows (n,)."""
        return UnitRows(self._rows[which])


def cosines(queries: UnitRows, which: Tensor, rows: UnitRows, numbers: Tensor) -> Tensor:
    """Return the cosines (n, m) of queries `which` (n,) and of each its own rows `numbers` (n, m); -inf at -1.

    Equal rows have equal cosines, to the bit, wherever they stand: a product of matrices does not promise that.
    """
    found = torch.empty(numbers.shape, dtype=torch.float32, device=numbers.device)
    for part in torch.arange(len(which), device=which.device).split(
        max(1, MULTIPLIED // max(1, numbers.shape[1] * rows.size))
    ):
        found[part] = rows.products(queries[which[part]], numbers[part].clamp(min=0))
    return found.clamp_(-1, 1).add_(0.0).masked_fill_(numbers < 0, -torch.inf)  # -0 becomes 0


def best_first(cosine: Tensor, numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` best cosines and their numbers, both (n, count); of equal ones the lowest number first.

    Args:
        cosine: (n, m), -inf where the number is -1.
        numbers: (n, m); one that is there twice counts once.
        count: of both, filled up with -inf and -1.
    """
    numbers, order = numbers.sort(dim=1, stable=True)
    cosine = cosine.gather(1, order)
    is_double = torch.zeros_like(numbers, dtype=torch.bool)
    is_double[:, 1:] = numbers[:, 1:] == numbers[:, :-1]
    cosine, order = cosine.masked_fill(is_double, -torch.inf).sort(dim=1, descending=True, stable=True)
    numbers = numbers.gather(1, order).masked_fill(cosine == -torch.inf, -1)
    missing = max(0, count - numbers.shape[1])
    pad = torch.nn.functional.pad
    return pad(cosine[:, :count], (0, missing), value=-torch.inf), pad(numbers[:, :count], (0, missing), value=-1)
