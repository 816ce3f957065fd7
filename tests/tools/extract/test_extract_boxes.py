"""Boxes from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import InputError
from tools.extract.regions import check_inside, chosen_boxes, read_boxes

A, B = [[0, 0, 10, 5], [1.5, 2, 3, 4]], [[1, 1, 2, 2]]


def write(folder: Path, name: str, content: Any) -> Path:
    """Write text as it is, and anything else as JSON."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", {"a.jpg": A, "b.jpg": B}),
        (
            "x.json",
            [
                {"image": "a.jpg", "x1": 0, "y1": 0, "x2": 10, "y2": 5},
                {"picture": "b.jpg", "x1": 1, "y1": 1, "x2": 2, "y2": 2, "score": 3},
                {"image": "a.jpg", "x1": 1.5, "y1": 2, "x2": 3, "y2": 4},
            ],
        ),
        ("x.csv", "a.jpg,0,0,10,5\nb.jpg,1,1,2,2\na.jpg,1.5,2,3,4\n"),
        ("x.csv", "y1,x1,Picture,x2,y2,score\n0,0,a.jpg,10,5,1\n2,1.5,a.jpg,3,4,1\n1,1,b.jpg,2,2,1\n"),
        ("x.tsv", "a.jpg\t0\t0\t10\t5\r\na.jpg\t1.5\t2\t3\t4\r\nb.jpg\t1\t1\t2\t2\r\n"),
    ],
)
def test_shapes(tmp_path: Path, name: str, content: Any) -> None:
    boxes = read_boxes(write(tmp_path, name, content))
    assert {picture: own.tolist() for picture, own in boxes.items()} == {"a.jpg": A, "b.jpg": B}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "", "suffix '.txt'"),
        ("x.csv", "", "holds no box"),
        ("x.json", 3, "not of a known shape"),
        ("x.json", [{"image": "a.jpg", "x1": 0}], "not of a known shape"),
        ("x.json", {"a.jpg": [[0, 0, 1]]}, "box 1 of a.jpg: [0, 0, 1] is no box"),
        ("x.json", {"a.jpg": [[0, 0, 1, 1], 3]}, "box 2 of a.jpg: 3 is no box"),
        (
            "x.json",
            {"a.jpg": [[0, 0, 1, 1], [2, 0, 2, 1]]},
            "box 2 of a.jpg: box (2.0, 0.0, 2.0, 1.0) of a.jpg is empty",
        ),
        ("x.csv", "a.jpg,0,0,1,0\n", "line 1: box (0.0, 0.0, 1.0, 0.0) of a.jpg is empty"),
        ("x.csv", "a.jpg,0,0,1,1\na.jpg,0,0,1,one\n", "line 2: ['0', '0', '1', 'one'] is no box"),
        ("x.csv", "a.jpg,0,0,1,1\na.jpg,0,0,1\n", "line 2 has 4 fields"),
        ("x.csv", "what,x1,y1,x2,y2\na.jpg,0,0,1,1\n", "names no column of pictures"),
    ],
)
def test_faults_are_told(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        read_boxes(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_equally_many_boxes() -> None:
    path, boxes = Path("x.json"), {"a.jpg": np.array(A), "b.jpg": np.array(B)}
    chosen = chosen_boxes(boxes, ["b.jpg", "a.jpg"], path, 1)
    assert {name: own.tolist() for name, own in chosen.items()} == {"b.jpg": B, "a.jpg": A[:1]}
    assert list(chosen_boxes(boxes, ["a.jpg"], path, None)) == ["a.jpg"]
    with pytest.raises(InputError, match="2 boxes of a.jpg and 1 of b.jpg.*--num_boxes"):
        chosen_boxes(boxes, ["b.jpg", "a.jpg"], path, None)
    with pytest.raises(InputError, match="1 boxes of b.jpg, --num_boxes is 2"):
        chosen_boxes(boxes, ["a.jpg", "b.jpg"], path, 2)
    with pytest.raises(InputError, match="no box of c.jpg"):
        chosen_boxes(boxes, ["a.jpg", "c.jpg"], path, None)


def test_boxes_stay_inside() -> None:
    inside = np.array([[0, 0, 10, 5], [-0.004, 1, 3, 5.003]])
    assert check_inside(inside, "a.jpg", 10, 5).tolist() == [[0, 0, 10, 5], [0, 1, 3, 5]]
    for box in ([-1, 0, 1, 1], [0, -1, 1, 1], [0, 0, 11, 5], [0, 0, 10, 6]):
        with pytest.raises(InputError, match=r"box 3 of picture a.jpg, \(.*\), reaches outside the picture of 10 x 5"):
            check_inside(np.array([*inside.tolist(), box]), "a.jpg", 10, 5)
