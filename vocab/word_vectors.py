"""Pretrained word vectors from a text file, read as a stream: only the vocabulary's words are kept.

GloVe's format is `word v1 ... vD` a line. word2vec's and fastText's has a line `words dimensions` above. In some of
GloVe's files a word holds spaces (`. . .`), so that the last D fields of a line are its vector.
Legend: V words of the vocabulary, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from runtime.errors import InputError
from runtime.files import kind_of_file
from runtime.flags import flag
from vocab.vocabulary import Vocabulary

LONGEST_LINE = 2**20
"""No vector's line has so many bytes; a file of another kind may have lines without end."""

MOST_DIGITS = 19
"""No count has so many."""


@dataclass(frozen=True)
class WordVectorsConfig:
    """Where word vectors come from."""

    word_vectors: str | None = flag(
        None,
        "start from the pretrained word vectors in this text file (GloVe or word2vec); --word_dim is its dimension",
        metavar="FILE",
    )


@dataclass(frozen=True)
class WordVectors:
    """Vectors of some of a vocabulary's words.

    Attributes:
        rows: (V, D) float32, zero where there is none.
        is_given: (V,) bool, the word has a vector.
        repeated: how many words the file gave again; the first vector counts.
    """

    rows: np.ndarray
    is_given: np.ndarray
    repeated: int

    def report(self, path: str) -> str:
        """Say how many words have a vector."""
        given, total = int(self.is_given.sum()), len(self.is_given)
        text = f"{path}: {given} of {total} words ({100 * given / total:.1f} %) start from a vector"
        return text + (f"; {self.repeated} came again there, the first one counts" if self.repeated else "")


def load(path: Path, vocabulary: Vocabulary, dim: int) -> WordVectors:
    """Read the vectors of the vocabulary's words.

    Every line is counted; numbers are looked at for the words that are kept.

    Args:
        path: the file.
        vocabulary: whose words are looked up, as they stand in it.
        dim: D, `--word_dim`.

    Raises:
        InputError: no such file, vectors of another dimension, a line that is no word with D finite numbers (its
            number), a file with fewer or more lines than its first one says, or one that holds none of the words.
    """
    where = f"--word_vectors {path}"
    if kind := kind_of_file(path):
        raise InputError(f"{where} {kind}")
    ids = {word.encode("utf-8"): k for k, word in enumerate(vocabulary.words)}
    rows, is_given = np.zeros((len(ids), dim), dtype=np.float32), np.zeros(len(ids), dtype=bool)
    promised, count, repeated = None, 0, 0
    try:
        with open(path, "rb") as file:
            for number, line in _lines(file):
                if number == 1:
                    promised = _promised(line, file.peek(1), dim, where)
                    if promised is not None:
                        continue
                count += 1
                try:
                    if promised is not None and count > promised:
                        raise ValueError(f"is one more than the {promised} words that its first line promises")
                    word, values = _split(line, dim)
                    row = ids.get(word)
                    if row is not None and is_given[row]:
                        repeated += 1
                    elif row is not None:
                        rows[row], is_given[row] = _vector(values, dim), True
                except ValueError as error:
                    raise InputError(
                        f"{where} line {number} {error}; a line is: word v1 ... v{dim}; copy the file again, or mend "
                        "the line"
                    ) from None
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}; name a text file") from None
    if count < (promised or 0):
        raise InputError(f"{where} ends after {count} of the {promised} words that its first line promises")
    if not count:
        raise InputError(f"{where} is empty; a line is: word v1 ... v{dim}")
    if not is_given.any():
        raise InputError(
            f"{where} has a vector for none of the {len(vocabulary)} words of the vocabulary; words are looked up in "
            "lower case"
        )
    return WordVectors(rows, is_given, repeated)


def _promised(line: bytes, rest: bytes, dim: int, where: str) -> int | None:
    """Return how many words the first line promises, None if it holds a vector; raise if D is another."""
    header = _header(line, rest)
    found = header[1] if header is not None else _dimension(line)
    if found != dim:
        what = f"vectors of {found} dimensions" if found else "no vector in its first line"
        advice = f"give --word_dim {found}, or another file" if found else "a line is: word v1 v2 ..."
        raise InputError(f"{where} has {what}, --word_dim is {dim}; {advice}")
    return None if header is None else header[0]


def _split(line: bytes, dim: int) -> tuple[bytes, bytes]:
    """Return a line's word and its numbers, which are the last D fields."""
    word, _, values = line.partition(b" ")
    if values and values.count(b" ") == dim - 1:
        return word, values
    fields = line.split()
    extra = len(fields) - dim
    if extra < 1 or any(_is_number(part) for part in fields[1:extra]):  # two lines run together, no word with spaces
        raise ValueError(f"has {max(len(fields) - 1, 0)} numbers instead of {dim}")
    return b" ".join(fields[:extra]), b" ".join(fields[extra:])


def _vector(values: bytes, dim: int) -> np.ndarray:
    try:
        vector = np.array(values.split(b" "), dtype=np.float64)
    except ValueError:
        raise ValueError(f"holds something other than {dim} numbers") from None
    if not (np.abs(vector) <= np.finfo(np.float32).max).all():  # false for NaN too
        raise ValueError("holds a number that is not finite")
    return vector


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines without their ends, and without a byte-order mark."""
    for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), b""), start=1):
        yield number, (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b" \t\r\n")


def _header(line: bytes, rest: bytes) -> tuple[int, int] | None:
    """Return (words, dimensions) if the first line is word2vec's, None if it holds a vector.

    Two whole numbers may also be a word and its vector of one dimension: the next line tells.
    """
    fields = line.split()
    if len(fields) != 2 or not all(part.isdigit() and len(part) < MOST_DIGITS for part in fields):
        return None
    words, dim = int(fields[0]), int(fields[1])
    following = _dimension(rest.partition(b"\n")[0])
    return None if following == 1 and dim != 1 else (words, dim)


def _dimension(line: bytes) -> int:
    """Return how many numbers end a line that starts with a word."""
    fields = line.split()[1:]
    for count, part in enumerate(reversed(fields)):
        if not _is_number(part):
            return count
    return len(fields)


def _is_number(part: bytes) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True
