"""Pretrained word vectors: formats, faults by line, what is kept."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from vocab import word_vectors
from vocab.vocabulary import SPECIAL, Vocabulary
from vocab.word_vectors import WordVectors, load

VOCABULARY = Vocabulary([*SPECIAL, "a", "café", "dog", "``", "7"])
A, CAFE, DOG, QUOTE, SEVEN = range(4, 9)


def write(folder: Path, text: str | bytes) -> Path:
    """Write a file of vectors."""
    path = folder / "vectors.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def rows_of(found: WordVectors) -> dict[int, list[float]]:
    return {int(k): found.rows[k].tolist() for k in np.flatnonzero(found.is_given)}


GLOVE = "the 1 2 3\ndog 0.5 -0.25 1e-1\n. . . 7 8 9\ncafé 1 0 0\n`` 0 1 0\nat x@y.z 4 5 6\nnan 1 1 1\n"


def test_glove(tmp_path: Path) -> None:
    found = load(write(tmp_path, GLOVE), VOCABULARY, 3)
    expected = {CAFE: [1.0, 0.0, 0.0], DOG: [0.5, -0.25, 0.1], QUOTE: [0.0, 1.0, 0.0]}
    assert rows_of(found) == {k: pytest.approx(row) for k, row in expected.items()}
    assert (found.rows.shape, found.rows.dtype, found.is_given.dtype) == ((9, 3), np.float32, np.bool_)
    assert not found.rows[~found.is_given].any()
    assert found.report("x.txt") == "x.txt: 3 of 9 words (33.3 %) start from a vector"


@pytest.mark.parametrize(
    "text",
    [
        "2 3\nthe 1 2 3\ndog 4 5 6\n",  # word2vec
        "2 3 \nthe 1 2 3 \ndog 4 5 6 \n",  # fastText
        "the 1 2 3\r\ndog 4 5 6\r\n",
        "\ufeffthe 1 2 3\ndog 4 5 6",
        "the\t1\t2\t3\ndog\t4\t5\t6\n",
        "the 1 2 3\ndog  4 5  6\n",
        "\ufeffdog 4 5 6\n",
    ],
)
def test_layouts(tmp_path: Path, text: str) -> None:
    assert rows_of(load(write(tmp_path, text), VOCABULARY, 3)) == {DOG: [4, 5, 6]}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("7 3\ndog 5\n", {SEVEN: [3], DOG: [5]}),  # a word and its vector, no header
        ("2 1\n7 3\ndog 5\n", {SEVEN: [3], DOG: [5]}),
        ("dog 5\n7 3\n", {SEVEN: [3], DOG: [5]}),
    ],
)
def test_two_numbers_are_a_header_only_if_the_next_line_fits(
    tmp_path: Path, text: str, rows: dict[int, list[float]]
) -> None:
    assert rows_of(load(write(tmp_path, text), VOCABULARY, 1)) == rows


def test_of_equal_words_the_first_counts(tmp_path: Path) -> None:
    found = load(write(tmp_path, "dog 1 2\nthe 0 0\nthe 1 1\ndog 3 4\ndog x 6\n"), VOCABULARY, 2)
    assert rows_of(found) == {DOG: [1, 2]}
    assert found.repeated == 2
    assert found.report("x").endswith("; 2 came again there, the first one counts")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the 1 2\ndog 1 2\n", "vectors of 2 dimensions, --word_dim is 3; give --word_dim 2"),
        ("1 2\ndog 1 2\n", "vectors of 2 dimensions, --word_dim is 3"),
        ("the 1 2 3 4\n", "vectors of 4 dimensions"),
        ("the 1 2 3\ndog 1 2\n", "line 2 has 2 numbers instead of 3"),
        ("the 1 2 3\nx 1 2\n", "line 2 has 2 numbers instead of 3"),
        ("the 1 2 3\n\ndog 1 2 3\n", "line 2 has 0 numbers instead of 3"),
        ("the 1 2 3\ndog 1 2 3 4\n", "line 2 has 4 numbers instead of 3"),
        ("the 1 2 3\nx 1 2 3 dog 4 5 6\n", "line 2 has 7 numbers instead of 3"),
        ("the 1 2 3\nx 1 2 3\ndog 1 b 3\n", "line 3 holds something other than 3 numbers"),
        ("the 1 2 3\ndog 1 nan 3\n", "line 2 holds a number that is not finite"),
        ("the 1 2 3\ndog 1 -inf 3\n", "line 2 holds a number that is not finite"),
        ("the 1 2 3\ndog 1 1e39 3\n", "line 2 holds a number that is not finite"),
        ("3 3\nthe 1 2 3\ndog 1 2 3\n", "ends after 2 of the 3 words"),
        ("1 3\nthe 1 2 3\ndog 1 2 3\n", "line 3 is one more than the 1 words"),
        ("5 3\n", "ends after 0 of the 5 words"),
        ("0 3\n", "is empty"),
        ("", "is empty"),
        ("the\nthen\n", "no vector in its first line"),
        ("the 1 2 3\nDog 1 2 3\n", "none of the 9 words"),
        (b"3000000 3\ndog \x00\x80\x3f\x00\x00\x80\x3f\x0a\x00\x80\x3f\xff", "line 2"),  # word2vec's binary form
        (b"PK\x03\x04\x14\x00" * 900, "is an archive"),
    ],
)
def test_faults_are_told(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match="--word_vectors") as caught:
        load(path, VOCABULARY, 3)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            load(path, VOCABULARY, 3)


def test_a_large_file_is_not_held(tmp_path: Path) -> None:
    """20 MB, of which two lines are wanted, and one line without an end."""
    with open(tmp_path / "large.txt", "wb") as file:
        line = b" ".join([b"0.123456"] * 50) + b"\n"
        for number in range(40_000):
            file.write((b"dog " if number == 20_000 else b"x%d " % number) + line)
    tracemalloc.start()
    found = load(tmp_path / "large.txt", VOCABULARY, 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.is_given.sum() == 1 and found.rows[DOG, 49] == np.float32(0.123456)
    assert peak < 1_000_000
    (tmp_path / "endless").write_bytes(b"\0" * 10_000_000)
    tracemalloc.start()
    with pytest.raises(InputError):
        load(tmp_path / "endless", VOCABULARY, 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * word_vectors.LONGEST_LINE
