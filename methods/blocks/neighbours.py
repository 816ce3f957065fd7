"""The nearest rows of every row by cosine, less those of its own group: which images or captions are like one.

    nearest(images, 10)                       the ten nearest images of every image
    nearest(captions, 10, group=image_of)     ten captions of other images for every caption

Every product is computed, a tile at a time, in float32, on the device where the rows are. A tile serves its rows and,
transposed, its columns, so that each product is computed once. Beside the rows and the result some tiles are held.
Legend: N rows, D dimensions, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from runtime.errors import InputError

EDGE = 4096
"""Rows and columns of a tile: 64 MiB of cosines."""

TOGETHER = 16
"""Of so many cosines the largest is looked at first, which is quicker."""


@contextmanager
def _in_float32() -> Iterator[None]:
    """Let products be computed in float32 even where TF32 or less was allowed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _lengths(rows: Tensor) -> Tensor:
    """Return the length of each row (N,) in float64, which squares of any float32 fit into; 1 for a row of zeros."""
    parts = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in rows.split(EDGE)]
    length = torch.cat(parts) if len(rows) else rows.new_zeros(0, dtype=torch.float64)
    if not (is_number := length.isfinite()).all():
        raise InputError(f"row {int((~is_number).nonzero()[0])} holds NaN or infinity: it has no neighbours")
    return torch.where(length == 0, torch.ones_like(length), length)


def _best(tile: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest of every row of a tile (b, c), fewer if c is less, and their columns."""
    parts = tile.shape[1] // TOGETHER
    if tile.shape[1] % TOGETHER or count > parts:
        found = tile.topk(min(count, tile.shape[1]), dim=1)
        return found.values, found.indices
    maxima = tile.unflatten(1, (TOGETHER, parts)).amax(dim=1)  # of columns j, j + parts, j + 2 parts, ...
    part = maxima.topk(count, dim=1).indices
    columns = (part[:, None] + parts * torch.arange(TOGETHER, device=tile.device)[:, None]).flatten(1)
    found = tile.gather(1, columns).topk(count, dim=1)
    return found.values, columns.gather(1, found.indices)


def nearest(rows: Tensor, count: int, *, group: Tensor | None = None) -> Tensor:
    """Return the numbers of the `count` nearest rows of every row by cosine, the best first.

    Exact but for the rounding of float32, with which nearly equal cosines may change places. Of equal cosines the
    lower number comes first; which of them are among the `count` is not said, but is the same every time.

    Args:
        rows: (N, D) floats of any length; a row of zeros has cosine 0 with everything.
        count: k, at least 1.
        group: (N,) integers; rows of a row's own group are left out. None: a row leaves out itself only.

    Returns:
        (N, k) int64, -1 where there are no more.

    Raises:
        InputError: NaN or infinity (names the first row).
    """
    assert count >= 1 and rows.ndim == 2, "at least one neighbour of rows"
    rows = rows.detach()
    device, length = rows.device, _lengths(rows)
    group = torch.arange(len(rows), device=device) if group is None else group.to(device)
    cosines = torch.full((len(rows), count), -torch.inf, device=device)
    numbers = torch.full((len(rows), count), -1, device=device)

    def unit(block: Tensor) -> Tensor:
        return (rows[block].double() / length[block, None]).float()

    def offer(queries: Tensor, others: Tensor, tile: Tensor) -> None:
        """Keep the best of what `queries` have and a tile (queries, others) of cosines."""
        values, columns = _best(tile, count)
        kept = torch.cat([cosines[queries], values], dim=1).topk(count, dim=1)
        named = torch.cat([numbers[queries], others[columns]], dim=1)
        cosines[queries], numbers[queries] = kept.values, named.gather(1, kept.indices)

    blocks = group.argsort(stable=True).split(EDGE) if len(rows) else ()  # a group's rows stand together
    with _in_float32():
        for k, queries in enumerate(blocks):
            asked, last = unit(queries), int(group[queries[-1]])
            for others in blocks[k:]:
                tile = asked @ unit(others).t()
                if int(group[others[0]]) <= last:
                    tile.masked_fill_(group[queries][:, None] == group[others], -torch.inf)
                offer(queries, others, tile)
                if others is not queries:
                    offer(others, queries, tile.t())
    numbers, order = numbers.masked_fill_(cosines == -torch.inf, -1).sort(dim=1)
    cosines = cosines.gather(1, order)
    return numbers.gather(1, cosines.sort(dim=1, descending=True, stable=True).indices)
