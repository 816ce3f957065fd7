"""Pretrained word vectors from a text file, read as a stream: only the vocabulary's words are kept.

GloVe's format is `word v1 ... vD` a line. word2vec's and fastText's has a line `words dimensions` above. In some of
GloVe's files a word holds spaces (`. . .`), so that the last D fields of a line are its vector.
Legend: V words of the vocabulary, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
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

Line = tuple[int, bytes]
"""A line's number, from 1, and its content."""


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
    if kind := kind_of_file(path):
        raise InputError(f"--word_vectors {path} {kind}")
    try:
        with open(path, "rb") as file:
            reader = _Reader(path, dim, {word.encode("utf-8"): k for k, word in enumerate(vocabulary.words)})
            reader.read(file)
    except OSError as error:
        raise InputError(f"--word_vectors {path} cannot be read: {error.strerror}; name a text file") from None
    if not reader.is_given.any():
        raise InputError(
            f"--word_vectors {path} has a vector for none of the {len(vocabulary)} words of the vocabulary; words are "
            "looked up in lower case"
        )
    return WordVectors(reader.rows, reader.is_given, reader.repeated)


@dataclass
class _Reader:
    """What is being gathered from a file."""

    path: Path
    dim: int
    ids: dict[bytes, int]
    repeated: int = 0
    rows: np.ndarray = field(init=False)
    is_given: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.rows = np.zeros((len(self.ids), self.dim), dtype=np.float32)
        self.is_given = np.zeros(len(self.ids), dtype=bool)

    def read(self, file: BinaryIO) -> None:
        """Go through all lines."""
        promised, count = None, 0
        for number, line in _lines(file):
            if number == 1:
                promised = _header(line, file.peek(1))  # type: ignore[attr-defined]
                self._check_dimension(line, promised)
                if promised is not None:
                    continue
            count += 1
            if promised is not None and count > promised[0]:
                raise self._fault(number, f"is one more than the {promised[0]} words that its first line promises")
            self._take(number, line)
        if promised is not None and count < promised[0]:
            raise InputError(
                f"--word_vectors {self.path} ends after {count} of the {promised[0]} words that its first line "
                "promises; copy it again"
            )
        if not count:
            raise InputError(f"--word_vectors {self.path} is empty; a line is: word v1 ... v{self.dim}")

    def _check_dimension(self, line: bytes, promised: tuple[int, int] | None) -> None:
        found = promised[1] if promised is not None else _dimension(line)
        if found != self.dim:
            what = f"vectors of {found} dimensions" if found else "no vector in its first line"
            raise InputError(
                f"--word_vectors {self.path} has {what}, --word_dim is {self.dim}; "
                + (f"give --word_dim {found}, or another file" if found else "a line is: word v1 v2 ...")
            )

    def _take(self, number: int, line: bytes) -> None:
        """Keep a line's vector if its word is wanted."""
        word, _, values = line.partition(b" ")
        spaces = values.count(b" ") + 1 if values else 0
        if spaces != self.dim:
            word, values = self._split_again(number, line)
        row = self.ids.get(word)
        if row is None:
            return
        if self.is_given[row]:
            self.repeated += 1
            return
        try:
            vector = np.array(values.split(b" "), dtype=np.float64)
        except ValueError:
            raise self._fault(number, f"holds something other than {self.dim} numbers") from None
        if not (np.abs(vector) <= np.finfo(np.float32).max).all():  # false for NaN too
            raise self._fault(number, "holds a number that is not finite")
        self.rows[row], self.is_given[row] = vector, True

    def _split_again(self, number: int, line: bytes) -> tuple[bytes, bytes]:
        """Split a line whose fields are not one word and D numbers between single spaces."""
        fields = line.split()
        extra = len(fields) - self.dim
        if extra < 1:
            raise self._fault(number, f"has {max(len(fields) - 1, 0)} numbers instead of {self.dim}")
        if any(_is_number(part) for part in fields[1:extra]):  # two lines run together, not a word with spaces
            raise self._fault(number, f"has {len(fields) - 1} numbers instead of {self.dim}")
        return b" ".join(fields[:extra]), b" ".join(fields[extra:])

    def _fault(self, number: int, what: str) -> InputError:
        return InputError(
            f"--word_vectors {self.path} line {number} {what}; a line is: word v1 ... v{self.dim}; copy the file "
            "again, or mend the line"
        )


def _lines(file: BinaryIO) -> Iterator[Line]:
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
