"""Bottom-up-attention TSV files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from tests.tools.convert.bottom_up_files import tsv_line, write_lines, write_tsv
from tools.convert import __main__ as convert
from tools.convert import bottom_up
from tools.convert.bottom_up import FIELDS, BottomUpFile, read_ids

FEATURES = np.random.RandomState(0).randn(6, 3, 4).astype(np.float32)
IDS = ["10", "11", "12", "13", "14", "15"]


def test_what_the_csv_module_writes(tmp_path: Path) -> None:
    """The published writer is csv.DictWriter; under Python 3 it leaves b'...' around base64 that was not decoded."""
    with open(tmp_path / "x.tsv", "w", newline="") as file:
        writer = csv.DictWriter(file, delimiter="\t", fieldnames=FIELDS)
        for k, features in enumerate(FEATURES):
            fields = tsv_line(str(k), features)
            if k == 2:
                fields[4:] = [str(text.encode()) for text in fields[4:]]
            writer.writerow(dict(zip(FIELDS, fields, strict=True)))
    np.testing.assert_array_equal(BottomUpFile(tmp_path / "x.tsv").read(np.arange(6)), FEATURES)


def test_the_first_line_of_an_image_counts(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "x.tsv", FEATURES, ["1", "2", "1", "3", "2", "4"])
    opened = BottomUpFile(path)
    assert opened.ids == ["1", "2", "3", "4"] and opened.num_repeated == 2
    np.testing.assert_array_equal(opened.read(np.arange(4)), FEATURES[[0, 1, 3, 5]])


NAN = tsv_line("x", np.full((3, 4), np.nan))[5]


@pytest.mark.parametrize("place", [0, 1], ids=["first of all", "in between"])
@pytest.mark.parametrize(
    "breaks",
    [
        lambda fields: [*fields[:5], fields[5][:20]],
        lambda fields: [*fields[:5], fields[5][:-3] + fields[0], *fields[1:]],
        lambda fields: [*fields[:5], NAN],
        lambda fields: [*fields[:5], tsv_line("x", FEATURES[0][:, :3])[5]],
        lambda fields: [*fields[:3], "", *fields[4:]],
        lambda fields: fields[:2],
    ],
    ids=["cut", "run together", "NaN", "narrow", "no number", "short"],
)
def test_a_broken_line_gives_way_to_a_whole_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], breaks: Callable[[list[str]], list[str]], place: int
) -> None:
    lines = [tsv_line(image, features) for image, features in zip(["1", "2", "3"], FEATURES, strict=False)]
    again = lines[place]
    path = write_lines(tmp_path / "x.tsv", [*lines[:place], breaks(again), *lines[place + 1 :], again, again])
    convert.main(["--input", str(path), "--output", str(tmp_path / "out.npy")])
    ids = (tmp_path / "out.ids.txt").read_text().split()
    assert sorted(ids) == ["1", "2", "3"]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), FEATURES[[int(image) - 1 for image in ids]])
    said = capsys.readouterr().out
    assert f"1 broken line left aside: line {place + 1} (image {place + 1})\n" in said
    assert "1 repeated lines and 0 other images left aside" in said


def test_an_image_without_a_whole_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [["1", "640"], tsv_line("2", FEATURES[0]), ["1"]]
    path = write_lines(tmp_path / "x.tsv", lines)
    with pytest.raises(InputError, match="line 1 has 2 fields"):
        BottomUpFile(path)
    assert BottomUpFile(path, ["2"]).broken == ["line 1 (image 1)", "line 3 (image 1)"], "image 1 is not wanted"
    monkeypatch.setattr(bottom_up, "MOST_BROKEN", 2)
    told: list[int] = []
    with pytest.raises(InputError, match="line 1 has 1 fields"):
        BottomUpFile(write_lines(path, [[str(k)] for k in range(50)]), advance=told.append)
    assert len(told) == 2, "a file of another kind is not read to its end"


def broken(row: int, place: int, value: str) -> list[list[str]]:
    lines = [tsv_line(image, features) for image, features in zip(IDS, FEATURES, strict=True)]
    lines[row][place] = value
    return lines


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        (broken(0, 5, "a\tb"), "line 1 has 7 fields; it must have 6.*image_id, image_w"),
        ([["1"]], "line 1 has 1 fields"),
        (broken(2, 3, "many"), r"line 3 \(image 12\): num_boxes is 'many'"),
        (broken(2, 3, "0"), r"line 3 \(image 12\): num_boxes is '0'"),
        (broken(3, 3, "2"), r"line 4 \(image 13\) has 2 boxes, line 1 has 3; every image must have the same number"),
    ],
)
def test_faults_of_lines_are_told_at_once(tmp_path: Path, lines: list[list[str]], message: str) -> None:
    with pytest.raises(InputError, match=f"x.tsv.*{message}"):
        BottomUpFile(write_lines(tmp_path / "x.tsv", lines))


NARROW = tsv_line("x", FEATURES[0][:, :3])[5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!" + tsv_line("x", FEATURES[0])[5][1:], "features are not base64"),
        (tsv_line("x", FEATURES[0])[5][:-1], "features are not base64"),
        (tsv_line("x", FEATURES[0])[5][:-4], "features are 45 bytes, no whole number of float32 .* for 3 boxes"),
        (tsv_line("x", FEATURES[0])[5] + "!", "features are not base64"),
        ("", "features are 0 bytes"),
        (NARROW, "has 3 dimensions, the first image has 4"),
        (NAN, "NaN or infinite"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    opened = BottomUpFile(write_lines(tmp_path / "x.tsv", broken(4, 5, text)))
    np.testing.assert_array_equal(opened.read(np.arange(4)), FEATURES[:4])
    with pytest.raises(InputError, match=rf"x.tsv line 5 \(image 14\).*{message}"):
        opened.read(np.array([5, 4]))


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottom_up, "MAX_LINE", 50)
    with pytest.raises(InputError, match="line 1 has no end within 50 bytes"):
        BottomUpFile(write_tsv(tmp_path / "x.tsv", FEATURES))


def test_ids_that_are_not_there(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "x.tsv", FEATURES, IDS)
    with pytest.raises(InputError, match="2 of 3 ids of --ids are not in .*x.tsv, the first is '0011'; .* like '10'"):
        BottomUpFile(path, ["10", "0011", "99"])


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (b"7\n8\n7\n", ["7", "8", "7"]),
        (b"7\n7\n7\n8\n8\n8\n", ["7", "8"]),
        (b"\xef\xbb\xbf7\r\n 8 \r\n\r\n", ["7", "8"]),
        (b"a b.jpg", ["a b.jpg"]),
    ],
)
def test_id_files(tmp_path: Path, content: bytes, ids: list[str]) -> None:
    (tmp_path / "ids.txt").write_bytes(content)
    assert read_ids(tmp_path / "ids.txt") == ids


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "it is empty"), (b"1\n\n2\n", "line 2 is empty"), (b"\xff\n", "utf-8")]
)
def test_bad_id_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"--ids .*ids.txt.*{message}"):
        read_ids(tmp_path / "ids.txt")
    with pytest.raises(InputError, match="--ids .* cannot be read"):
        read_ids(tmp_path / "none.txt")


def test_a_conversion_by_ids_writes_them_beside(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "x.tsv", FEATURES, IDS)
    (tmp_path / "wanted.txt").write_text("15\n15\n11\n11\n")
    convert.main(
        ["--input", str(path), "--output", str(tmp_path / "train_ims.npy"), "--ids", str(tmp_path / "wanted.txt")]
    )
    np.testing.assert_array_equal(np.load(tmp_path / "train_ims.npy"), FEATURES[[5, 1]])
    assert (tmp_path / "train_ims.ids.txt").read_text() == "15\n11\n"
