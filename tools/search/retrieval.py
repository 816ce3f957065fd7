"""Two-stage retrieval: candidates by their keys, then those in the order of their real scores.

Keys of largest product with a query are found exactly up to EXACT_ROWS rows, a block of rows at a time. Above, faiss
looks in the lists nearest to the query, which hold 8 bits a dimension, and what it finds is put in order by the rows
themselves. (faiss and not usearch: its lists are built by one pass over the rows and read through a memory map, and it
may stand beside torch.) Where keys are exact (VSE, GPO) the first stage is all there is.
Legend: N rows, K dimensions, Q queries, P pairs of a query and a candidate, k results.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_utils.precomputed import PrecomputedSplit
from models.ensemble import Split
from runtime.errors import InputError
from runtime.packages import optional, require
from tools.filter.filtering import Rows
from tools.search.scores import (
    Captions,
    EncodedFile,
    ImagesOf,
    KeyedMatcher,
    caption_keys,
    image_keys,
    images_from,
    score_listed,
)

faiss = optional("faiss")

EXACT_ROWS, LISTS = 200_000, "lists.faiss"
"""Above so many rows an index has inverted lists, in a file of this name."""
PURPOSE = f"searching more than {EXACT_ROWS:,} rows needs"
ROWS = 16_384
"""So many rows are read at a time."""

QUERIES = 1024
"""So many queries are answered at a time."""

SPARE = 4
"""The lists are asked for so many times the rows wanted, since 8 bits are not the rows themselves."""


TRAINED_ON = 64
"""Rows a list that the lists are learnt from."""

LOOKED_AT = 1 / 16
"""Share of the lists that a query looks into."""


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


def _blocks(rows: Rows) -> Iterator[np.ndarray]:
    for start in range(0, rows.shape[0], ROWS):
        yield np.asarray(rows[start : start + ROWS], dtype=np.float32)


def build_lists(rows: Rows, path: Path, advance: Callable[[int], None] = lambda rows: None, *, seed: int = 0) -> None:
    """Build inverted lists of rows (N, K), sqrt(N) of them, into a file that is there whole or not at all.

    Args:
        rows: what is searched; they are read twice.
        path: the file.
        advance: told how many rows more are in.
        seed: draws the rows that the lists are learnt from.

    Raises:
        InputError: faiss is not installed, or the file cannot be written.
    """
    require(faiss, "faiss-cpu", PURPOSE)
    count, size = rows.shape
    lists = max(1, round(math.sqrt(count)))
    mean, sample = _mean_and_sample(rows, min(count, TRAINED_ON * lists), seed)
    index: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(size), size, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # small lists are no reason for a warning
    index.train(sample)
    for block in _blocks(rows):
        index.add(np.ascontiguousarray(block - mean))
        advance(len(block))
    temporary = path.with_name(path.name + ".part")
    try:
        faiss.write_index(index, str(temporary))
        os.replace(temporary, path)
    except (RuntimeError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error}") from None


def _mean_and_sample(rows: Rows, wanted: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean row (K,) and `wanted` rows less it, drawn at random; what all rows share tells none apart.

    The mean need not be kept: a query's product with it is the same for every row.
    """
    count, size = rows.shape
    chosen = np.sort(np.random.RandomState(seed).permutation(count)[:wanted])
    total, start = np.zeros(size), 0
    sample = np.empty((wanted, size), dtype=np.float32)
    for block in _blocks(rows):
        total += block.sum(axis=0, dtype=np.float64)
        first, last = np.searchsorted(chosen, (start, start + len(block)))
        sample[first:last] = block[chosen[first:last] - start]
        start += len(block)
    mean = (total / count).astype(np.float32)
    sample -= mean
    return mean, sample


class Lists:
    """Inverted lists in a file, read through a memory map, beside the rows that they were built from.

    Raises:
        InputError: faiss is not installed; no such file, or of other rows.
    """

    def __init__(self, path: Path, rows: np.ndarray) -> None:
        require(faiss, "faiss-cpu", PURPOSE)
        self._rows = rows
        try:
            self._index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            raise InputError(f"{path} cannot be read ({str(error)[:120]}); delete it, and it is built anew") from None
        if (self._index.ntotal, self._index.d) != rows.shape:
            raise InputError(f"{path} belongs to other rows; delete it, and it is built anew")
        self._index.nprobe = max(1, round(self._index.nlist * LOOKED_AT))

    def search(self, queries: np.ndarray, count: int) -> Found:
        """Return about the `count` best rows for queries (Q, K); their scores are exact."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        wanted = min(SPARE * count, len(self._rows))
        numbers = np.empty((len(queries), min(count, wanted)), dtype=np.int64)
        scores = np.empty(numbers.shape, dtype=np.float32)
        for start in range(0, len(queries), QUERIES):
            _, found = self._index.search(queries[start : start + QUERIES], wanted)
            for k, row in enumerate(found, start=start):
                exact = np.where(row >= 0, self._rows[row] @ queries[k], -np.inf)
                best = np.argsort(-exact, kind="stable")[: numbers.shape[1]]
                numbers[k], scores[k] = np.where(np.isfinite(exact[best]), row[best], -1), exact[best]
        return Found(numbers, scores)


def search(rows: np.ndarray, lists: Path | None, queries: np.ndarray, count: int) -> Found:
    """Search rows (N, K): exactly, or by their lists, where there is a file of them."""
    return search_exactly(rows, queries, count) if lists is None else Lists(lists, rows).search(queries, count)


@dataclass(frozen=True)
class Side:
    """One side of an index, whole.

    Attributes:
        folder: where it is.
        keys: (N, K), a memory map.
    """

    folder: Path
    keys: np.ndarray

    def search(self, queries: np.ndarray, count: int) -> Found:
        """Return the best rows for queries (Q, K)."""
        lists = self.folder / LISTS
        return search(self.keys, lists if lists.is_file() else None, queries, count)


class TextQuerySplit:
    """Text queries in the shape of a split without images."""

    num_images = 0

    def __init__(self, queries: Captions) -> None:
        self.lengths, self.tokens = queries.lengths, queries.tokens

    def read_images(self, images: np.ndarray) -> torch.Tensor:
        """There are none."""
        raise AssertionError("text queries have no images")


def images_for_texts(
    networks: Sequence[KeyedMatcher],
    gallery: PrecomputedSplit,
    side: Side,
    queries: Captions,
    device: torch.device,
    *,
    top_k: int,
    shortlist: int,
) -> Found:
    """Return the best images of text queries.

    Args:
        networks: with the keys that the index was made with.
        gallery: its images.
        side: the images' side of the index.
        queries: Q of them.
        device: where the networks are.
        top_k: results a query.
        shortlist: candidates a query whose real scores are computed.
    """
    keys = np.empty((len(queries.lengths), side.keys.shape[1]), dtype=np.float32)
    for numbers, block in caption_keys(networks, TextQuerySplit(queries), device):
        keys[numbers] = block
    matchers = [network.matcher for network in networks]

    def score(query: np.ndarray, image: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as scratch:
            images: list[ImagesOf]
            if len(image) > gallery.num_images:  # then encoding every image once is less than candidate by candidate
                images = [EncodedFile(Path(scratch), str(k), m, gallery, device) for k, m in enumerate(matchers)]
            else:
                images = [images_from(m, gallery, device) for m in matchers]
            return score_listed(matchers, images, queries, device, (image, query))

    return _two_stages(networks, side, keys, score, top_k, shortlist)


def captions_for_images(
    networks: Sequence[KeyedMatcher],
    gallery: PrecomputedSplit,
    side: Side,
    queries: Split,
    device: torch.device,
    *,
    top_k: int,
    shortlist: int,
) -> Found:
    """Return the best captions of the images `queries`: as `images_for_texts`, by the captions' side of the index."""
    keys = np.concatenate([block for _, block in image_keys(networks, queries, device)])
    matchers = [network.matcher for network in networks]

    def score(query: np.ndarray, caption: np.ndarray) -> np.ndarray:
        images = [images_from(matcher, queries, device) for matcher in matchers]
        return score_listed(matchers, images, gallery, device, (query, caption))

    return _two_stages(networks, side, keys, score, top_k, shortlist)


def _two_stages(
    networks: Sequence[KeyedMatcher],
    side: Side,
    keys: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    top_k: int,
    shortlist: int,
) -> Found:
    """Return the best by keys (Q, K) or, where those only estimate, the candidates in the order of their real scores.

    `score` is given query numbers and candidates (P,).
    """
    if all(network.keys.are_exact for network in networks):
        return side.search(keys, top_k)
    candidates = side.search(keys, max(shortlist, top_k)).numbers
    query, place = np.nonzero(candidates >= 0)
    table = np.full(candidates.shape, -np.inf, dtype=np.float32)
    table[query, place] = score(query, candidates[query, place])
    best = np.argsort(-table, axis=1, kind="stable")[:, :top_k]
    return Found(np.take_along_axis(candidates, best, axis=1), np.take_along_axis(table, best, axis=1))
