"""Relevance files: every layout gives the same pairs, and every fault is named with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from data_utils.relevance import read_image_ids, read_relevance
from runtime.errors import InputError

PAIRS = [(0, 0), (0, 3), (2, 3), (3, 7)]
IDS = {"391895": 0, "x.jpg": 1, "42": 2, "7": 3}
NAMES = {number: name for name, number in IDS.items()}

LAYOUTS = {
    "numbers.tsv": "\n".join(f"{i}\t{c}" for i, c in PAIRS),
    "windows.csv": "\ufeffimage,caption\r\n" + "\r\n".join(f"{i},{c}" for i, c in PAIRS) + "\r\n",
    "more.csv": "score,Caption,IMAGE\n" + "\n".join(f"0.5,{c}, {i} " for i, c in PAIRS) + "\n\n",
    "ids.tsv": "image_id\tcaption\n" + "\n".join(f"{NAMES[i]}\t{c}" for i, c in PAIRS),
    "pairs.json": json.dumps(PAIRS),
    "records.json": json.dumps([{"image": i, "caption": c, "score": 5} for i, c in PAIRS]),
    "ids.json": json.dumps([{"image_id": NAMES[i], "caption": c} for i, c in PAIRS]),
    "both.json": json.dumps({"i2t": {"0": [0, 3], "2": [3], "3": [7]}, "t2i": {"0": [0], "3": [0, 2], "7": [3]}}),
}


def never() -> Mapping[str, int]:
    raise AssertionError("ids were asked for")


def read(path: Path, text: str) -> list[set[tuple[int, int]]]:
    path.write_bytes(text.encode())
    found = read_relevance(path, 4, 8, (lambda: IDS) if "ids" in path.name else never)
    assert all(pairs.dtype == np.int64 for pairs in found.values())
    return [set(map(tuple, found["i2t"].tolist())), {(i, c) for c, i in found["t2i"].tolist()}]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_pairs(tmp_path: Path, name: str) -> None:
    assert read(tmp_path / name, LAYOUTS[name]) == [set(PAIRS), set(PAIRS)]


def test_the_two_directions_may_differ(tmp_path: Path) -> None:
    text = json.dumps({"i2t": {"1": [5, 6]}, "t2i": {"4": [3]}})
    assert read(tmp_path / "x.json", text) == [{(1, 5), (1, 6)}, {(3, 4)}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.tsv", "0\t1\n4\t1\n", "line 2: image '4' is not one of 0 .. 3"),
        ("x.csv", "image,caption\n0,1\n0,8\n", "line 3: caption '8' is not one of 0 .. 7"),
        ("x.csv", "image,caption\n0,-1\n", "line 2: caption '-1' is not one of 0 .. 7"),
        ("x.csv", "image,caption\n0\n", "line 2 has 1 columns, not 2"),
        ("x.csv", "picture,caption\n0,1\n", "line 2: a pair needs the columns image (or image_id) and caption"),
        ("x.csv", "", "it holds no pair"),
        ("x.csv", "image,caption\n", "it holds no pair"),
        ("ids.csv", "image_id,caption\n43,1\n", "line 2: image_id '43' is not in the split"),
        ("x.json", "[[0, 1], [0, 9]]", "entry 2: caption 9 is not one of 0 .. 7"),
        ("x.json", "[[0, 1], [0, true]]", "entry 2: caption True is not one of 0 .. 7"),
        ("x.json", "[[0, 1.5]]", "entry 1: caption 1.5 is not one of 0 .. 7"),
        ("x.json", "[[0, 1, 2]]", "entry 1 is no pair"),
        ("x.json", "[]", "it holds no pair"),
        ("x.json", "3", "neither a list nor an object"),
        ("x.json", "{", "Expecting property name"),
        ("x.json", '{"i2t": {"0": [1]}}', 'the two names "i2t" and "t2i"'),
        ("x.json", '{"i2t": {"0": 1}, "t2i": {"1": [0]}}', "image 0 has no list of captions"),
        ("x.json", '{"i2t": {"9": [1]}, "t2i": {"1": [0]}}', "image 9: image '9' is not one of 0 .. 3"),
        ("x.json", '{"i2t": [1], "t2i": {"1": [0]}}', "x.json"),
        ("x.txt", "0 1", "must end in .tsv, .csv or .json"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match="--relevance") as caught:
        read(tmp_path / name, text)
    assert message in str(caught.value) and name in str(caught.value)


def test_a_missing_file_or_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_relevance(tmp_path / "no.csv", 4, 8, never)
    (tmp_path / "x.csv").write_bytes("image,caption\n0,1\xff".encode("latin-1"))
    with pytest.raises(InputError, match="--relevance .*x.csv.*utf-8"):
        read_relevance(tmp_path / "x.csv", 4, 8, never)


@pytest.mark.parametrize(
    ("lines", "image_of_caption"),
    [
        (["a", "a", "b", "b", "c", "c"], [0, 0, 1, 1, 2, 2]),
        (["a", "b", "c"], [0, 0, 1, 1, 2, 2]),
        (["a", "b", "c"], [0, 1, 2]),
        (["a", "b", "a", "c"], [0, 1, 0, 2]),
        (["a", "b", "c"], [0, 1, 0, 2]),
    ],
)
def test_image_ids_by_caption_or_by_image(tmp_path: Path, lines: list[str], image_of_caption: list[int]) -> None:
    (tmp_path / "test_ids.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_image_ids(tmp_path, "test", np.array(image_of_caption)) == {"a": 0, "b": 1, "c": 2}


def test_image_ids_are_those_of_the_tsv_where_there_is_no_file_of_ids(tmp_path: Path) -> None:
    (tmp_path / "test_caps.tsv").write_text("x 1.jpg\tone\ny\ttwo\nx 1.jpg\tthree\n", encoding="utf-8")
    assert read_image_ids(tmp_path, "test", np.array([0, 1, 0])) == {"x 1.jpg": 0, "y": 1}


OWN = np.array([0, 0, 1, 1, 2, 2])


def test_image_ids_that_are_missing_or_of_another_number(tmp_path: Path) -> None:
    (tmp_path / "test_caps.txt").write_text("one\n" * 6, encoding="utf-8")
    with pytest.raises(InputError, match="image ids need .*test_ids.txt"):
        read_image_ids(tmp_path, "test", OWN)
    for lines in ("a\nb\n", "a\nb\nc\nd\n"):
        (tmp_path / "test_ids.txt").write_text(lines, encoding="utf-8")
        with pytest.raises(InputError, match=f"test_ids.txt holds {len(lines) // 2} ids for 3 images"):
            read_image_ids(tmp_path, "test", OWN)


def test_an_id_that_stands_for_two_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_ids.txt").write_text("a\na\nb\n", encoding="utf-8")
    with pytest.raises(InputError, match="'a' names two images"):
        read_image_ids(tmp_path, "test", OWN)
