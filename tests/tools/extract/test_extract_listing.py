"""Pictures, captions and boxes from files of all known shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import InputError
from tools.extract.listing import Listing, read_listing
from tools.extract.regions import check_inside, chosen_boxes, read_boxes

EXPECTED = Listing(["a.jpg", "b.jpg"], [["a dog", 'a "big" dog, red'], ["a cat", "two cats"]])


def write(folder: Path, name: str, content: Any) -> Path:
    """Write text as it is, and anything else as JSON."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
    return path


SHAPES: dict[str, tuple[str, Any]] = {
    "by name": ("x.json", {"a.jpg": ["a dog", 'a "big" dog, red'], "b.jpg": ["a cat", "two cats"]}),
    "objects": (
        "x.json",
        [
            {"image": "a.jpg", "caption": "a dog", "width": 3},
            {"file_name": "b.jpg", "captions": ["a cat", "two cats"]},
            {"filename": "a.jpg", "caption": ['a "big" dog, red']},
        ],
    ),
    "parallel lists": (
        "x.json",
        {"image": ["a.jpg", "b.jpg"], "caption": [["a dog", 'a "big" dog, red'], ["a cat", "two cats"]]},
    ),
    "flat lists": (
        "x.json",
        {"image": ["a.jpg", "b.jpg"], "caption": ["a dog", 'a "big" dog, red', "a cat", "two cats"]},
    ),
    "annotations": (
        "x.json",
        {
            "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}, {"id": 4, "file_name": "c"}],
            "annotations": [
                {"image_id": 7, "caption": "a dog"},
                {"image_id": 3, "caption": "a  cat \n"},
                {"image_id": 7, "caption": 'a "big" dog, red'},
                {"image_id": 3, "caption": "two\ncats"},
            ],
        },
    ),
    "csv with names": (
        "x.csv",
        'number,caption,image\n1,a dog,a.jpg\n2,"a ""big"" dog, red",a.jpg\n3,a cat,b.jpg\n4,two cats,b.jpg\n',
    ),
    "csv with columns of captions": (
        "x.csv",
        'Image,caption_1,caption 2\na.jpg,a dog,"a ""big"" dog, red"\nb.jpg,"a\ncat",two cats\n',
    ),
    "csv without names": ("x.csv", 'a.jpg,a dog,"a ""big"" dog, red"\r\nb.jpg,a cat\r\n\r\nb.jpg, two cats \r\n'),
    "bars": (
        "x.csv",
        "image_name| comment_number| comment\n"
        'a.jpg| 0| a dog\na.jpg| 1| a "big" dog, red\nb.jpg| 0| a cat\nb.jpg| 1| two cats\n',
    ),
    "tsv": ("x.tsv", 'a.jpg\ta dog\na.jpg\ta "big" dog, red\nb.jpg\ta cat\ttwo cats\n'),
    "lines": ("x.txt", 'a.jpg#0\ta dog\na.jpg#1\ta "big" dog, red\nb.jpg#0\ta cat\nb.jpg#1\ttwo cats\n'),
    "lines of Windows": ("x.txt", '\ufeffa.jpg\ta dog\r\na.jpg\ta "big" dog, red\r\nb.jpg\ta cat\r\nb.jpg\ttwo cats'),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(tmp_path: Path, shape: str) -> None:
    assert read_listing(write(tmp_path, *SHAPES[shape]), "train") == EXPECTED


def test_captions_beside_names(tmp_path: Path) -> None:
    path = write(tmp_path, "dev_caps.txt", 'a dog\na "big" dog, red\na cat\ntwo cats\n')
    with pytest.raises(InputError, match="dev_images.txt"):
        read_listing(path, "train")
    write(tmp_path, "dev_images.txt", "a.jpg\nb.jpg\n")
    assert read_listing(path, "train") == EXPECTED
    write(tmp_path, "dev_images.txt", "a.jpg\nb.jpg\nc.jpg\n")
    with pytest.raises(InputError, match="4 captions for the 3 pictures"):
        read_listing(path, "train")


KARPATHY = {
    "images": [
        {"filename": "a.jpg", "filepath": "val", "split": split, "sentences": [{"raw": f"{split} {k}"} for k in (1, 2)]}
        | {"filename": f"{number}.jpg"}
        for number, split in enumerate(("train", "val", "restval", "test", "train"))
    ]
}


@pytest.mark.parametrize(("split", "numbers"), [("train", [0, 2, 4]), ("dev", [1]), ("test", [3]), ("testall", [3])])
def test_splits_that_the_file_tells(tmp_path: Path, split: str, numbers: list[int]) -> None:
    path = write(tmp_path, "x.json", KARPATHY)
    listing = read_listing(path, split)
    names = ("train", "val", "restval", "test", "train")
    assert listing.pictures == [f"val/{number}.jpg" for number in numbers]
    assert listing.captions == [[f"{names[number]} 1", f"{names[number]} 2"] for number in numbers]


def test_splits_in_a_table_and_a_split_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", "image,caption,split\na.jpg,a dog,train\nb.jpg,a cat,dev\n")
    assert read_listing(path, "dev") == Listing(["b.jpg"], [["a cat"]])
    with pytest.raises(InputError, match=r"no picture of split test; it has: train \(1\), dev \(1\)"):
        read_listing(path, "test")


def test_equally_many_captions(tmp_path: Path) -> None:
    path = write(tmp_path, "x.json", {"a.jpg": ["1", "2", "3"], "b.jpg": ["4", "5"]})
    with pytest.raises(InputError, match="b.jpg has 2 captions, a.jpg has 3.*--captions_per_image 2 keeps"):
        read_listing(path, "train")
    assert read_listing(path, "train", 2).captions == [["1", "2"], ["4", "5"]]
    assert read_listing(path, "train", 1).captions == [["1"], ["4"]]
    with pytest.raises(InputError, match="b.jpg has 2 captions, --captions_per_image is 3"):
        read_listing(path, "train", 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.xml", "", "suffix '.xml'; known: .json, .csv, .tsv, .txt"),
        ("x.json", "{", "is no JSON"),
        ("x.json", [3], "not of a known shape"),
        ("x.json", [{"caption": "a dog"}], "image or picture or filename"),
        ("x.json", [{"image": "a.jpg"}], "caption or captions"),
        ("x.json", {"image": ["a"], "caption": [["x"], ["y"]]}, "2 entries of captions for 1 images"),
        ("x.json", {"a.jpg": {"b": 1}}, "captions are {'b': 1}"),
        ("x.json", {"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}, "not of a known shape"),
        ("x.json", [{"image": 3, "caption": "x"}], "entry 0: a picture's name and its captions must be texts"),
        ("x.json", {"a.jpg": ["a", " "]}, "picture a.jpg has an empty caption"),
        ("x.json", {"a\nb": "x"}, "is no picture's name"),
        ("x.csv", "image,width\na.jpg,3\n", "names no column of captions"),
        ("x.csv", "image,caption\na.jpg,a dog\nb.jpg,a dog, red\n", "line 3 has 3 fields, its first line names 2"),
        ("x.csv", 'a.jpg,"a dog\nb.jpg,a cat\n', "is no CSV"),
        ("x.csv", "image,caption\n,a dog\n", "line 2: '' is no picture's name"),
        ("x.csv", "image,caption\na.jpg, \n", "line 2: picture a.jpg has an empty caption"),
        ("x.txt", "a.jpg\ta dog\nb.jpg a cat\n", "line 2 has no tab"),
        ("x.txt", "a.jpg\ta dog\nb.jpg\t\n", "line 2: picture b.jpg has an empty caption"),
    ],
)
def test_faults_are_told(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        read_listing(path, "train")
    assert message in str(caught.value) and str(path) in str(caught.value)


# -- boxes ------------------------------------------------------------

A, B = [[0, 0, 10, 5], [1.5, 2, 3, 4]], [[1, 1, 2, 2]]


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
def test_shapes_of_boxes(tmp_path: Path, name: str, content: Any) -> None:
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
def test_faults_of_boxes_are_told(tmp_path: Path, name: str, content: Any, message: str) -> None:
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
