"""The nearest rows of every row, less those of its own group: which pairs are like a pair.

Up to EXACT_ROWS rows every product is computed, on CUDA or without faiss always; among more rows inverted lists are
looked into, and what they find is put in order by exact cosines. Nothing is drawn anew: same rows, same result.

    nearest(images, 10)                       the ten nearest images of every image
    nearest(captions, 10, group=image_of)     ten captions of other images for every caption

Legend: N rows, Q queries, D dimensions, k neighbours, m candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.blocks.exact_neighbours import Problem, find_exactly
from methods.blocks.listed_neighbours import find_in_lists
from methods.blocks.unit_rows import UnitRows
from models.inverted_lists import can_build_lists

EXACT_ROWS = 50_000
"""Among more rows lists are quicker on a CPU: twice at 145,000 x 1024 (benchmarks/RESULTS.md)."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of queries.

    Attributes:
        numbers: (Q, k) int64 row numbers, the best first, -1 where there are no more.
        cosines: (Q, k) float32 in [-1, 1], 0 where there are no more.
    """

    numbers: Tensor
    cosines: Tensor


def nearest(
    rows: Tensor,
    count: int,
    *,
    group: Tensor | None = None,
    queries: Tensor | None = None,
    query_group: Tensor | None = None,
    exact: bool | None = None,
) -> Neighbours:
    """Return the `count` nearest rows of every row, or of every query, by cosine.

    Exactly, cosines are right to 1e-6, and rows nearer to each other than 4e-6 may change places with a row left out;
    of equal ones the lowest numbers are taken and come first. Equal rows are equal to the bit. Some hundred MiB are
    held beside `rows` and the result. Lists hold two bits for each number of `rows`, and a sample of them while they
    are learnt; they miss some neighbours, and of more equal ones than wanted take any; queries that they leave short
    are answered exactly.

    Args:
        rows: (N, D) floats of any length, also larger or smaller than float32 can square; a row of zeros has cosine 0
            with everything.
        count: k, at least 1; some hundreds at most are quick.
        group: (N,) integers; rows of the same group as a query are left out. None without `queries`: a row leaves out
            itself only.
        queries: (Q, D) other vectors; None: every row.
        query_group: (Q,) integers, their groups; None: they leave out nothing.
        exact: compute every product; None: up to EXACT_ROWS rows, on CUDA, and without faiss. False: lists, on a CPU.

    Raises:
        InputError: NaN or infinity (names the first row), or `exact` is False and faiss is not installed.
    """
    assert count >= 1, "at least one neighbour"
    unit = UnitRows(rows)
    asked = unit if queries is None else UnitRows(queries, "query")
    assert asked.size == unit.size and asked.device == unit.device, "queries as rows"
    assert group is None or group.shape == (len(unit),), "a group for each row"
    if queries is None:
        assert query_group is None, "rows that are queries have their own groups"
        group = query_group = torch.arange(len(unit), device=unit.device) if group is None else group.to(unit.device)
    else:
        assert query_group is None or (group is not None and query_group.shape == (len(asked),)), "groups of both"
        group = None if query_group is None or group is None else group.to(unit.device)
        query_group = None if query_group is None else query_group.to(unit.device)
    if not len(unit) or not len(asked):
        shape = (len(asked), count)
        none = torch.full(shape, -1, dtype=torch.long, device=unit.device)
        return Neighbours(none, torch.zeros(shape, device=unit.device))
    problem = Problem(unit, group, asked, query_group)
    if exact is None:
        exact = len(unit) <= EXACT_ROWS or unit.device.type == "cuda" or not can_build_lists()
    assert exact or unit.device.type == "cpu", "lists are on a CPU"
    cosine, numbers = (find_exactly if exact else find_in_lists)(problem, count)
    return Neighbours(numbers, cosine.masked_fill(numbers < 0, 0.0))
