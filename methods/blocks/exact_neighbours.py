"""The nearest rows of every row by blocked matrix products: all of them, in bounded memory.

Products are computed a tile at a time. Of a tile only what is better than the worst that a row has so far is looked at:
the maxima of every 16 scores are compared with that, and where they are above, those 16. When rows are their own
queries a tile serves both its rows and its columns, so that each product is computed once.

A tile's scores only choose: a few rows more than wanted are kept, and those are put in order by cosines in float32 that
do not depend on where a row stands. Where the last one wanted is nearer than ROUNDING to what was left out, all rows as
near as that are looked up again in the order of their numbers, so that of equal ones the lowest are found.
Legend: N rows, Q queries, D dimensions, k wanted, m kept, b x c a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.blocks.unit_rows import UnitRows, best_first, cosines

MEMORY = 256 * 2**20
"""Bytes held beside what is given and what is returned, about."""

EDGE = 4096
"""Rows and columns of a tile where MEMORY allows."""

SPARE = 8
"""So many more than wanted are kept: rounding may change places."""

ROUNDING = 2e-6
"""Products of unit vectors in float32 are exact to this; a tenth of it is what is seen at D = 2048."""

TOGETHER = 16
"""Scores whose maximum is looked at first."""

CROWDED = 1 / 8
"""Share of a tile above which it is sorted as a whole."""

WIDEST = 256
"""More finds in a row of a tile: sorted as a whole too."""


@dataclass(frozen=True)
class Problem:
    """What is looked for.

    Attributes:
        rows: N of them.
        group: (N,) integers, or None: nothing is left out.
        queries: Q of them; the same object as `rows` where every row is a query.
        query_group: (Q,); rows of a query's group are left out.
    """

    rows: UnitRows
    group: Tensor | None
    queries: UnitRows
    query_group: Tensor | None

    def left_out(self, query: slice | Tensor, row: slice | Tensor) -> Tensor | None:
        """Tell which rows queries leave out: broadcast over the shapes of both, None for none."""
        if self.group is None or self.query_group is None:
            return None
        of_query, of_row = self.query_group[query], self.group[row]
        return of_query[:, None] == (of_row if of_row.ndim == 2 else of_row[None])


@contextmanager
def in_float32() -> Iterator[None]:
    """Let products be computed in float32 even where TF32 or less was allowed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def tile_edge(size: int) -> int:
    """Return the edge of a tile for D = `size`: scores twice, and three blocks of rows, must fit into MEMORY."""
    edge = EDGE
    while edge > TOGETHER and 4 * edge * (2 * edge + 3 * size) > MEMORY:
        edge //= 2
    return edge


class Best:
    """The m best of every query so far, sorted.

    Attributes:
        scores: (Q, m), -inf where there is none.
        numbers: (Q, m), -1 there.
    """

    def __init__(self, queries: int, kept: int, device: torch.device) -> None:
        self.scores = torch.full((queries, kept), -torch.inf, device=device)
        self.numbers = torch.full((queries, kept), -1, dtype=torch.long, device=device)

    def _merge(self, which: slice | Tensor, scores: Tensor, numbers: Tensor) -> None:
        scores = torch.cat([self.scores[which], scores], dim=1)
        numbers = torch.cat([self.numbers[which], numbers], dim=1)
        kept = scores.topk(self.scores.shape[1], dim=1)
        self.scores[which] = kept.values
        self.numbers[which] = numbers.gather(1, kept.indices).masked_fill(kept.values == -torch.inf, -1)

    def take_all(self, query: Tensor, row: Tensor, scores: Tensor) -> None:
        """Take the best of scores (b, c) of queries (b,) and rows (c,), -inf where a row is left out."""
        best = scores.topk(min(self.scores.shape[1], scores.shape[1]), dim=1)
        self._merge(query, best.values, row[best.indices])

    def take(self, query: Tensor, row: Tensor, scores: Tensor) -> bool:
        """Take scores (f,) of queries (f,), each one's together, and rows (f,).

        Returns:
            Whether there was room for them: nothing was taken otherwise.
        """
        which, count = query.unique_consecutive(return_counts=True)
        if not len(which):
            return True
        if (width := int(count.max())) > WIDEST:
            return False
        line = torch.repeat_interleave(torch.arange(len(which), device=query.device), count)
        place = torch.arange(len(query), device=query.device) - (count.cumsum(0) - count)[line]
        table = scores.new_full((len(which), width), -torch.inf)
        table[line, place] = scores
        named = row.new_full(table.shape, -1)
        named[line, place] = row
        self._merge(which, table, named)
        return True


def _padded(rows: Tensor) -> Tensor:
    """Fill up a block of rows with zeros to a multiple of TOGETHER."""
    missing = -len(rows) % TOGETHER
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def _offer(problem: Problem, best: Best, query: Tensor, row: Tensor, scores: Tensor, maxima: Tensor) -> None:
    """Offer a tile to its queries.

    Args:
        problem: who leaves out whom.
        best: what they have.
        query, row: the numbers of the tile's queries (b,) and rows (c,).
        scores: of queries and rows, padded to multiples of 16; -inf where there is no row.
        maxima: (b, j) of every 16 scores, those of rows j, j + c / 16, j + 2 c / 16, ...; padded.
    """
    limit = best.scores[query, -1]
    found, part = (maxima[: len(query)] > limit[:, None]).nonzero(as_tuple=True)
    if len(found) * TOGETHER <= CROWDED * len(query) * len(row):
        column = part[:, None] + torch.arange(TOGETHER, device=part.device) * maxima.shape[1]
        score = scores[found[:, None], column]
        named = row[column.clamp(max=len(row) - 1)]  # what is beyond has a score of -inf
        is_better = score > limit[found][:, None]
        left_out = problem.left_out(query[found], named)
        if left_out is not None:
            is_better &= ~left_out
        if best.take(query[found][:, None].expand_as(named)[is_better], named[is_better], score[is_better]):
            return
    tile = scores[: len(query), : len(row)]
    left_out = problem.left_out(query, row)
    if left_out is not None:
        tile.masked_fill_(left_out, -torch.inf)
    best.take_all(query, row, tile)


def _choose(problem: Problem, kept: int) -> Best:
    """Return about the `kept` best rows of every query."""
    rows, queries, device = problem.rows, problem.queries, problem.rows.device
    edge, is_mirrored = tile_edge(rows.size), rows is queries
    best = Best(len(queries), kept, device)
    buffer = torch.empty(edge * edge, device=device)
    for query in torch.arange(len(queries), device=device).split(edge):
        top, asked = int(query[0]), _padded(queries[query])
        for row in torch.arange(top if is_mirrored else 0, len(rows), device=device).split(edge):
            is_diagonal = is_mirrored and int(row[0]) == top
            block = asked if is_diagonal else _padded(rows[row])
            high, wide = len(asked), len(block)
            scores = buffer[: high * wide].view(high, wide)
            torch.mm(asked, block.t(), out=scores)
            scores[:, len(row) :] = -torch.inf
            by_row = scores.view(high, TOGETHER, wide // TOGETHER).amax(dim=1)
            _offer(problem, best, query, row, scores, by_row)
            if is_mirrored and not is_diagonal:
                by_column = scores.view(TOGETHER, high // TOGETHER, wide).amax(dim=0).t()
                _offer(problem, best, row, query, scores.t(), by_column)
    return best


def _lowest_of_equals(problem: Problem, which: Tensor, cosine: Tensor, count: int) -> Tensor:
    """Return the lowest `count` rows whose cosine with queries `which` (n,) is about `cosine` (n,); (n, count)."""
    rows, edge = problem.rows, tile_edge(problem.rows.size)
    found = torch.full((len(which), count), -1, dtype=torch.long, device=which.device)
    for top in range(0, len(which), edge):
        line = torch.arange(top, min(top + edge, len(which)), device=which.device)
        have = torch.zeros_like(line)
        asked = problem.queries[which[line]]
        for start in range(0, len(rows), edge):
            row = slice(start, min(start + edge, len(rows)))
            is_near = (asked @ rows[row].t()).sub_(cosine[line][:, None]).abs_() <= ROUNDING
            left_out = problem.left_out(which[line], row)
            if left_out is not None:
                is_near &= ~left_out
            place = is_near.cumsum(dim=1, dtype=torch.int32).add_(have[:, None])
            at, column = (is_near & (place <= count)).nonzero(as_tuple=True)
            found[line[at], place[at, column].long() - 1] = column + start
            have = place[:, -1].long()
            if not (is_open := have < count).all():
                line, have, asked = line[is_open], have[is_open], asked[is_open]
                if not len(line):
                    break
    return found


def find_exactly(problem: Problem, count: int) -> tuple[Tensor, Tensor]:
    """Return cosines and numbers (Q, count) of the nearest rows, -inf and -1 where there are no more."""
    with in_float32():
        best = _choose(problem, min(count, len(problem.rows)) + SPARE)
        cosine = torch.empty(len(problem.queries), count, device=best.numbers.device)
        numbers = torch.empty(cosine.shape, dtype=torch.long, device=cosine.device)
        for which in torch.arange(len(cosine), device=cosine.device).split(EDGE):
            cosine[which], numbers[which] = _in_order(problem, best, which, count)
        return cosine, numbers


def _in_order(problem: Problem, best: Best, which: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the true cosines and numbers (n, count) of queries (n,)."""
    wanted, chosen, limit = min(count, len(problem.rows)), best.numbers[which], best.scores[which, -1]
    cosine = cosines(problem.queries, which, problem.rows, chosen)
    scores, numbers = best_first(cosine, chosen, count)
    last = scores[:, wanted - 1]
    unsure = ((last <= limit + ROUNDING) & (limit > -torch.inf)).nonzero()[:, 0]
    if len(unsure):
        equals = _lowest_of_equals(problem, which[unsure], last[unsure], wanted)
        also = cosines(problem.queries, which[unsure], problem.rows, equals)
        scores[unsure], numbers[unsure] = best_first(
            torch.cat([cosine[unsure], also], dim=1), torch.cat([chosen[unsure], equals], dim=1), count
        )
    return scores, numbers
