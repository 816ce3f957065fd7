"""Inverted lists of vectors: a query looks only into the lists nearest to it. Built and read by faiss.

faiss and not usearch: its lists are built by one pass over the rows and read through a memory map, and it may stand
beside torch (both bring an OpenMP of their own under Linux; neither waits for the other's threads).
Lists hold 8 bits a dimension: what they find is to be put in order by the rows themselves.
Legend: N rows, K dimensions, Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from runtime.packages import optional, require

faiss = optional("faiss")

TRAINED_ON = 64
"""Rows a list that the lists are learnt from."""

LOOKED_AT = 1 / 16
"""Share of the lists that a query looks into."""

Blocks = Callable[[], Iterable[np.ndarray]]
"""Begins to read all rows: blocks (n, K) float32 of consecutive ones."""


class InvertedLists:
    """Lists that were built or read.

    Args:
        index: of faiss.

    Attributes:
        shape: (N, K).
    """

    def __init__(self, index: Any) -> None:
        index.nprobe = max(1, round(index.nlist * LOOKED_AT))
        self._index = index
        self.shape = (index.ntotal, index.d)

    def search(self, queries: np.ndarray, count: int) -> np.ndarray:
        """Return the numbers (Q, count) of about the rows of largest product with queries (Q, K); -1: no more."""
        return self._index.search(np.ascontiguousarray(queries, dtype=np.float32), count)[1]

    def write(self, path: Path) -> None:
        """Write them into a file.

        Raises:
            RuntimeError: it cannot be written.
        """
        faiss.write_index(self._index, str(path))


def read_lists(path: Path, *, purpose: str) -> InvertedLists:
    """Read lists through a memory map.

    Args:
        path: the file.
        purpose: what needs faiss, with the verb.

    Raises:
        InputError: faiss is not installed.
        RuntimeError: no such file, or damaged.
    """
    require(faiss, "faiss-cpu", purpose)
    return InvertedLists(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY))


def learn_lists(
    blocks: Blocks,
    shape: tuple[int, int],
    *,
    purpose: str,
    advance: Callable[[int], None] = lambda rows: None,
    seed: int = 0,
) -> InvertedLists:
    """Build lists, sqrt(N) of them; rows are read twice.

    Args:
        blocks: the rows.
        shape: (N, K).
        purpose: what needs faiss, with the verb.
        advance: told how many rows more are in.
        seed: draws the rows that the lists are learnt from.

    Raises:
        InputError: faiss is not installed.
    """
    require(faiss, "faiss-cpu", purpose)
    count, size = shape
    lists = max(1, round(math.sqrt(count)))
    mean, sample = _mean_and_sample(blocks, shape, min(count, TRAINED_ON * lists), seed)
    index: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(size), size, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # small lists are no reason for a warning
    index.train(sample)
    for block in blocks():
        index.add(np.ascontiguousarray(block - mean))
        advance(len(block))
    return InvertedLists(index)


def _mean_and_sample(blocks: Blocks, shape: tuple[int, int], wanted: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean row (K,) and `wanted` rows less it, drawn at random; what all rows share tells none apart.

    The mean need not be kept: a query's product with it is the same for every row.
    """
    count, size = shape
    chosen = np.sort(np.random.RandomState(seed).permutation(count)[:wanted])
    total, start = np.zeros(size), 0
    sample = np.empty((wanted, size), dtype=np.float32)
    for block in blocks():
        total += block.sum(axis=0, dtype=np.float64)
        first, last = np.searchsorted(chosen, (start, start + len(block)))
        sample[first:last] = block[chosen[first:last] - start]
        start += len(block)
    mean = (total / count).astype(np.float32)
    sample -= mean
    return mean, sample
