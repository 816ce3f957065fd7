"""The nearest rows among many on a CPU: candidates from inverted lists, put in order by their exact cosines.

Legend: N rows, Q queries, D dimensions, k wanted, m candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from methods.blocks.exact_neighbours import Problem, find_exactly
from methods.blocks.unit_rows import best_first, cosines
from models.inverted_lists import SMALLEST, TOGETHER, learn_lists

PURPOSE = "neighbours among so many rows need"
BLOCK = 1024
"""So many rows are made to length 1, and so many queries asked, at a time."""

SPARE = 20
"""The lists are asked for so many times the rows wanted: coarse codes tell near rows badly apart."""

LOOKED_AT = 1 / 12
"""Share of the lists that a query looks into."""

LARGEST_GROUP = 64
"""Queries that leave out more rows than that are answered exactly: lists would yield little else."""


def _even(rows: Tensor) -> np.ndarray:
    """Return rows (n, D) with a zero more where D is odd."""
    return torch.nn.functional.pad(rows, (0, rows.shape[1] % TOGETHER)).numpy()


def _left_out(problem: Problem) -> Tensor:
    """Return how many rows each query leaves out, (Q,)."""
    if problem.group is None or problem.query_group is None:
        return torch.zeros(len(problem.queries), dtype=torch.long)
    known, count = problem.group.unique(return_counts=True)
    place = torch.searchsorted(known, problem.query_group).clamp_(max=len(known) - 1)
    return torch.where(known[place] == problem.query_group, count[place], 0)


def find_in_lists(problem: Problem, count: int) -> tuple[Tensor, Tensor]:
    """Return cosines and numbers (Q, count) of about the nearest rows, -inf and -1 where there are no more.

    Raises:
        InputError: faiss is not installed.
    """
    rows, queries = problem.rows, problem.queries
    if len(rows) < SMALLEST:
        return find_exactly(problem, count)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), BLOCK):
            yield _even(rows[start : start + BLOCK])

    shape = len(rows), rows.size + rows.size % TOGETHER
    lists = learn_lists(blocks, shape, purpose=PURPOSE, is_coarse=True, looked_at=LOOKED_AT)
    left_out = _left_out(problem)
    asked_for = min(SPARE * count + min(int(left_out.max()), LARGEST_GROUP), len(rows))
    cosine = torch.full((len(queries), count), -torch.inf)
    numbers = torch.full((len(queries), count), -1)
    is_open = left_out > LARGEST_GROUP
    for which in (~is_open).nonzero()[:, 0].split(BLOCK):
        found = torch.from_numpy(lists.search(_even(queries[which]), asked_for))
        is_own = problem.left_out(which, found.clamp(min=0))
        if is_own is not None:
            found.masked_fill_(is_own, -1)
        cosine[which], numbers[which] = best_first(cosines(queries, which, rows, found), found, count)
    available = (len(rows) - left_out).clamp(max=count)
    is_open |= (numbers >= 0).sum(dim=1) < available
    again = is_open.nonzero()[:, 0]
    if len(again):
        group = None if problem.query_group is None else problem.query_group[again]
        rest = Problem(rows, problem.group, queries.some(again), group)
        cosine[again], numbers[again] = find_exactly(rest, count)
    return cosine, numbers
