"""The rows of largest product with a query: exactly, or among many rows by inverted lists.

Up to EXACT_ROWS rows every product is computed, a block of rows at a time. Above, faiss looks in the lists nearest to
the query (models/inverted_lists.py), and what it finds is put in order by the rows themselves.
Legend: N rows, K dimensions, Q queries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.inverted_lists import learn_lists, read_lists
from runtime.errors import InputError
from tools.filter.filtering import Rows

EXACT_ROWS = 200_000
PURPOSE = f"searching more than {EXACT_ROWS:,} rows needs"
ROWS = 16_384
"""So many rows are read at a time."""

QUERIES = 1024
"""So many queries are answered at a time."""

SPARE = 4
"""The lists are asked for so many times the rows wanted, since 8 bits are not the rows themselves."""


@dataclass(frozen=True)
class Found:
    """What a search found, the best first.

    Attributes:
        numbers: (Q, k) row numbers, -1 where there are no more.
        scores: (Q, k) products, -inf there.
    """

    numbers: np.ndarray
    scores: np.ndarray


def search_exactly(rows: Rows, queries: np.ndarray, count: int) -> Found:
    """Return the `count` best of all rows (N, K) for queries (Q, K)."""
    count = min(count, rows.shape[0])
    parts = [_search_block(rows, queries[k : k + QUERIES], count) for k in range(0, len(queries), QUERIES)]
    return Found(np.concatenate([p.numbers for p in parts]), np.concatenate([p.scores for p in parts]))


def _search_block(rows: Rows, queries: np.ndarray, count: int) -> Found:
    asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32))
    number = torch.empty(len(asked), 0, dtype=torch.long)
    score = torch.empty(len(asked), 0)
    for start in range(0, rows.shape[0], ROWS):
        block = torch.from_numpy(np.array(rows[start : start + ROWS], dtype=np.float32))
        best = (asked @ block.t()).topk(min(count, len(block)), dim=1)
        number = torch.cat([number, best.indices + start], dim=1)
        score = torch.cat([score, best.values], dim=1)
        kept = score.topk(min(count, score.shape[1]), dim=1)
        number, score = number.gather(1, kept.indices), kept.values
    return Found(number.numpy(), score.numpy())


def build_lists(rows: Rows, path: Path, advance: Callable[[int], None] = lambda rows: None, *, seed: int = 0) -> None:
    """Build inverted lists of rows (N, K) into a file, which is there whole or not at all; rows are read twice.

    Args:
        rows: what is searched.
        path: the file.
        advance: told how many rows more are in.
        seed: draws the rows that the lists are learnt from.

    Raises:
        InputError: the file cannot be written.
    """

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, rows.shape[0], ROWS):
            yield np.asarray(rows[start : start + ROWS], dtype=np.float32)

    count, size = rows.shape
    lists = learn_lists(blocks, (count, size), purpose=PURPOSE, advance=advance, seed=seed)
    temporary = path.with_name(path.name + ".part")
    try:
        lists.write(temporary)
        os.replace(temporary, path)
    except (RuntimeError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error}") from None


class Lists:
    """Inverted lists in a file, read through a memory map, beside the rows that they were built from.

    Raises:
        InputError: no such file, or of other rows.
    """

    def __init__(self, path: Path, rows: np.ndarray) -> None:
        self._rows = rows
        try:
            self._lists = read_lists(path, purpose=PURPOSE)
        except RuntimeError as error:
            raise InputError(f"{path} cannot be read ({str(error)[:120]}); delete it, and it is built anew") from None
        if self._lists.shape != rows.shape:
            raise InputError(f"{path} belongs to other rows; delete it, and it is built anew")

    def search(self, queries: np.ndarray, count: int) -> Found:
        """Return about the `count` best rows for queries (Q, K); their scores are exact."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        wanted = min(SPARE * count, len(self._rows))
        numbers = np.empty((len(queries), min(count, wanted)), dtype=np.int64)
        scores = np.empty(numbers.shape, dtype=np.float32)
        for start in range(0, len(queries), QUERIES):
            found = self._lists.search(queries[start : start + QUERIES], wanted)
            for k, row in enumerate(found, start=start):
                exact = np.where(row >= 0, self._rows[row] @ queries[k], -np.inf)
                best = np.argsort(-exact, kind="stable")[: numbers.shape[1]]
                numbers[k], scores[k] = np.where(np.isfinite(exact[best]), row[best], -1), exact[best]
        return Found(numbers, scores)


def search(rows: np.ndarray, lists: Path | None, queries: np.ndarray, count: int) -> Found:
    """Search rows (N, K): exactly, or by their lists, where there is a file of them."""
    return search_exactly(rows, queries, count) if lists is None else Lists(lists, rows).search(queries, count)
