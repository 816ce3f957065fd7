"""Groups of near-duplicates: captions of equal words, images of nearly equal features.

Captions are equal if nothing is left to tell them apart but case, punctuation, width and spaces. Images are near if the
cosine of their mean features, with the mean of all images taken away, is above a threshold; what is near to something
near is in the group too (union-find).
Legend: N captions, I images, D dimensions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from runtime.errors import InputError
from tools.filter.filtering import Rows

ROWS = 1024
"""So many images are compared with all that follow at a time."""

MOST_NEAR = 20_000_000
"""More pairs of near images than this are no duplicates: the threshold is too low."""


def normalised(text: str) -> str:
    """Return the words of a text in lower case, one space between; a text without words stays as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded)) or folded.strip()


def text_groups(texts: Iterable[str]) -> np.ndarray:
    """Return for each text (N,) the number of the first one with the same words."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(normalised(text), k) for k, text in enumerate(texts)], dtype=np.int64)


def near_groups(vectors: Rows, threshold: float) -> np.ndarray:
    """Return for each row (I,) the number of the first one of its group.

    Args:
        vectors: (I, D); without directions of their own (equal to the mean) they are near to nothing.
        threshold: rows of a cosine above this are near.

    Raises:
        InputError: so many are near that these are no duplicates.
    """
    count = vectors.shape[0]
    total = sum(np.asarray(vectors[k : k + ROWS], dtype=np.float64).sum(axis=0) for k in range(0, count, ROWS))
    mean = total / count

    def unit(start: int) -> np.ndarray:
        block = np.asarray(vectors[start : start + ROWS], dtype=np.float64) - mean
        length = np.linalg.norm(block, axis=1, keepdims=True)
        return np.divide(block, length, out=np.zeros_like(block), where=length > 1e-9).astype(np.float32)

    found: list[tuple[np.ndarray, np.ndarray]] = []
    num_near = 0
    for start in range(0, count, ROWS):
        own = unit(start)
        for other in range(start, count, ROWS):
            rows, columns = np.nonzero(own @ unit(other).T > threshold)
            is_later = rows + start < columns + other
            found.append((rows[is_later] + start, columns[is_later] + other))
            num_near += int(is_later.sum())
            if num_near > MOST_NEAR:
                raise InputError(
                    f"--duplicate_cosine {threshold:g} finds more than {MOST_NEAR:,} pairs of near images; raise it"
                )
    rows, columns = (np.concatenate(sides) for sides in zip(*found, strict=True))
    return first_of_component(count, rows, columns)


def first_of_component(count: int, rows: Sequence[int] | np.ndarray, columns: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return for each of `count` things the lowest number among those it hangs together with by the given links."""
    links = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    _, component = connected_components(links, directed=False)
    first = np.full(component.max(initial=0) + 1, count, dtype=np.int64)
    np.minimum.at(first, component, np.arange(count))
    return first[component]


def group_sizes(groups: np.ndarray) -> np.ndarray:
    """Return how many belong to each one's group."""
    return np.bincount(groups, minlength=len(groups))[groups]
