"""The check of a data set: what it finds, what it says to do, how it ends."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_utils import catalog
from data_utils.catalog import DataConfig, Protocol
from data_utils.regions import RegionFile
from tests.tiny import make_tiny_data, scatter
from tools.check import __main__ as check
from tools.check import inventory
from tools.check.inventory import scan_rows
from vocab.vocabulary import Vocabulary

COUNTS = {"train": 40, "dev": 8, "test": 10}
NAME = "tiny_precomp"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data of its own, to be broken; the vocabulary is in `vocab/` two folders above."""
    return make_tiny_data(tmp_path / "own", images=COUNTS) / "data" / NAME


def look(folder: Path) -> check.Report:
    root = folder.parents[1]
    return check.check(DataConfig(NAME, str(root / "data"), str(root / "vocab")))


def run(folder: Path, *flags: str) -> int:
    """Run the command; return its exit code."""
    root = folder.parents[1]
    argv = ["--data_path", str(root / "data"), "--vocab_path", str(root / "vocab"), "--data_name", NAME, *flags]
    try:
        check.main(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_sound_data_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line.split() for line in lines]
    size = (folder / "test_caps.txt").stat().st_size
    assert ["train_ims", "train_ims.npy", "7.81", "kB", "40", "x", "4", "x", "12", "float32"] in cells
    assert ["test_caps", "test_caps.txt", f"{size / 1e3:.2f}", "kB", "50", "lines", "-"] in cells
    # split, images, published, captions, an image, a row is, words min, median, mean, max, distinct, unknown
    (dev,) = (c for c in cells if c[:3] == ["dev", "8", "-"])
    assert dev[3:8] == ["40", "5", "an", "image", "4"] and dev[10] == "6" and dev[12] == "0.00"
    assert lines[-1] == "usable" and not [line for line in lines if line.startswith("fault")]


def test_the_embedded_set_is_usable(capsys: pytest.CaptureFixture[str]) -> None:
    check.main([])
    assert capsys.readouterr().out.splitlines()[-1] == "usable"


def test_what_is_missing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "dev_ims.npy").unlink()
    (folder / "test_caps.txt").unlink()
    assert run(folder) == 1
    out = capsys.readouterr().out
    assert "split 'dev' has no features: neither" in out and "split 'test' has no captions: neither" in out
    assert "not usable: 2 faults" in out
    assert ["dev_ims", "missing", "-", "-", "-"] in [line.split() for line in out.splitlines()]
    (tmp_path / "data" / NAME).mkdir(parents=True)
    assert run(tmp_path / "data" / NAME) == 1
    assert "not usable: 7 faults" in capsys.readouterr().out, "six files and the vocabulary"
    assert run(tmp_path / "none" / "data" / NAME) == 2
    assert capsys.readouterr().err.startswith("error: no data set 'tiny_precomp'")


# -- one thing wrong at a time ----------------------------------------------------------------------------------------


def changed(name: str, change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    """Return what changes a file of features in place, or by what `change` returns."""

    def breaks(folder: Path) -> None:
        features = np.load(folder / name)
        new = change(features)
        np.save(folder / name, features if new is None else new)

    return breaks


def set_rows(name: str, rows: object, value: float) -> Callable[[Path], None]:
    return changed(name, lambda features: features.__setitem__(rows, value))


def captions(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def swap(one: str, other: str, *suffixes: str) -> Callable[[Path], None]:
    """Exchange files of two splits."""

    def breaks(folder: Path) -> None:
        for suffix in suffixes:
            shutil.move(folder / f"{one}{suffix}", folder / "aside")
            shutil.move(folder / f"{other}{suffix}", folder / f"{one}{suffix}")
            shutil.move(folder / "aside", folder / f"{other}{suffix}")

    return breaks


def every_fifth_caption(folder: Path) -> None:
    lines = (folder / "test_caps.txt").read_text().splitlines()
    (folder / "test_caps.txt").write_text("\n".join(lines[::5]) + "\n")


def without_spaces(folder: Path) -> None:
    """Whatever the vocabulary: one of whole captions knows them all."""
    texts = [f"第{k}张照片里有一只狗" for k in range(200)]
    (folder / "train_caps.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    Vocabulary.build(texts + ["red dog"], 1).save(folder.parents[1] / "vocab" / f"{NAME}_vocab.json")


def cut(folder: Path) -> None:
    path = folder / "train_ims.npy"
    path.write_bytes(path.read_bytes()[:-1])


def cut_hdf5(folder: Path) -> None:
    with h5py.File(folder / "train_ims.h5", "w") as file:
        file.create_dataset("features", data=np.load(folder / "train_ims.npy"), chunks=(1, 4, 12))
    (folder / "train_ims.npy").unlink()
    (folder / "train_ims.h5").write_bytes((folder / "train_ims.h5").read_bytes()[:-1])


def rows_of_test_in_train(folder: Path) -> None:
    train, test = np.load(folder / "train_ims.npy"), np.load(folder / "test_ims.npy")
    train[[30, 12]] = test[[2, 9]]
    np.save(folder / "train_ims.npy", train)


def captions_in_train(folder: Path) -> None:
    lines = (folder / "train_caps.txt").read_text().splitlines()
    mine = [f"{line} number {k}" for k, line in enumerate((folder / "test_caps.txt").read_text().splitlines())]
    mine[3], mine[7], mine[8] = lines[100], lines[100], lines[5]
    (folder / "test_caps.txt").write_text("\n".join(mine) + "\n")


def two_of_a_kind(folder: Path) -> None:
    with h5py.File(folder / "train_ims.h5", "w") as file:
        file["features"] = np.load(folder / "train_ims.npy")
    (folder / "dev_caps.tsv").write_text("1\ta\n")
    (folder / "test_ims.h5.part").write_bytes(b"")


Case = tuple[Callable[[Path], object], list[str], list[str]]
"""What is broken, all faults that are found, and some of the remarks."""
TRAIN, TEST = "train_ims.npy", "test_ims.npy"
CASES: dict[str, Case] = {
    "no vocabulary": (
        lambda folder: (folder.parents[1] / "vocab" / f"{NAME}_vocab.json").unlink(),
        ["no vocabulary at .*python -m vocab.build"],
        [],
    ),
    "foreign words": (
        captions("test_caps.txt", "ein gelber Hund\n" * 49 + "noch einer\n"),
        ["does not know 100 % of the words of test: it belongs to another data set"],
        [],
    ),
    "some foreign words": (
        captions("test_caps.txt", "a red dog outside\n" * 35 + "a red dog irgendwo draussen\n" * 15),
        [],
        ["^the vocabulary does not know 14 % of the words of test$"],
    ),
    "no spaces": (
        without_spaces,
        ["train_caps.txt: the captions have no spaces between words.*segment them", "words of dev", "words of test"],
        [],
    ),
    "labels": (captions("train_caps.txt", "dog\ncat\ncar\nred\ntrain\n" * 40), [], []),
    "train and test swapped": (
        swap("train", "test", "_ims.npy", "_caps.txt"),
        [r"train is smaller than test \(10 images, 40\): the files of the two are probably swapped"],
        [],
    ),
    "features of another split": (
        swap("dev", "test", "_ims.npy"),
        [
            "counts do not divide: 8 feature rows.*test_ims.npy but 50 captions",
            "dev has 40 captions for 10 feature rows, not 5 an image; test has the captions that would fit and test "
            "has the features that would fit: files of different splits are mixed; copy them again",
            "dev has the captions that would fit and dev has the features that would fit",
        ],
        [],
    ),
    "a mixture that divides": (
        lambda folder: shutil.copy(folder / "train_caps.txt", folder / "dev_caps.txt"),
        [
            "dev has 200 captions for 8 feature rows, not 5 an image; train has the features that would fit",
            "the captions of train and dev are the same, line by line",
        ],
        [],
    ),
    "another number of captions": (every_fifth_caption, [], ["^test has 10 captions for 10 feature rows, not 5 an"]),
    "other dimensions": (
        changed("dev_ims.npy", lambda features: features[:, :3]),
        [r"differ \(train 4 x 12, dev 3 x 12, test 4 x 12\); all splits must agree"],
        [],
    ),
    "cut short": (cut, ["train_ims.npy is cut short.*copy it again"], []),
    "HDF5 cut short": (cut_hdf5, ["train_ims.h5 is cut short.*copy it again"], []),
    "NaN": (
        set_rows(TRAIN, ([3, 5, 7, 9, 11, 39], 1, 2), np.nan),
        ["train_ims.npy: 6 rows hold NaN or infinity, the first are 3, 5, 7, 9, 11, ...; extract"],
        [],
    ),
    "infinity": (set_rows(TEST, (2, 1, 2), -np.inf), ["test_ims.npy: 1 rows hold NaN or infinity"], []),
    "rows of zeros": (set_rows(TRAIN, [4, 7], 0), [], ["train_ims.npy: 2 rows are all zero, the first are 4, 7"]),
    "all zeros": (set_rows(TRAIN, slice(None), 0), ["holds nothing but zeros; extract train again"], []),
    "equal rows": (
        changed(TEST, lambda features: features.__setitem__(7, features[2])),
        [r"1 rows equal a row of another image, 10.0 % of all \(first: rows 2 and 7\); extract test again"],
        [],
    ),
    "equal rows in train": (set_rows(TRAIN, slice(21), 1), [], ["train_ims.npy: 20 rows equal"]),
    "too many of them": (set_rows(TRAIN, slice(22), 1), ["train_ims.npy: 21 rows equal"], []),
    "images of test in train": (
        rows_of_test_in_train,
        [r"train and test share 2 feature rows, 20.0 % of test \(first: row 30 of train is row 2 of test\)"],
        [],
    ),
    "captions of test in train": (
        captions_in_train,
        ["does not know 27 % of the words of test"],
        [r"3 caption lines of test \(6.0 %\) are in train too"],
    ),
    "two of a kind": (
        two_of_a_kind,
        [],
        [
            "train_ims.npy and train_ims.h5 are both there; train_ims.npy is read",
            "dev_caps.txt and dev_caps.tsv are both there; dev_caps.txt is read",
            "unfinished files, which nothing reads: test_ims.h5.part",
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_thing_wrong(folder: Path, case: str) -> None:
    """The faults are these and no others; the remarks are among those that are made."""
    breaks, faults, remarks = CASES[case]
    breaks(folder)
    found = look(folder).findings
    assert len(found.faults) == len(faults), found.faults
    for told in faults:
        assert any(re.search(told, fault) for fault in found.faults), (told, found.faults)
    for told in remarks:
        assert any(re.search(told, remark) for remark in found.remarks), (told, found.remarks)


# -- what is published, what is uneven --------------------------------------------------------------------------------


def test_the_published_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.PROTOCOLS, NAME, Protocol(captions_per_image=5, images={**COUNTS, "train": 41}))
    report = look(folder)
    assert not report.findings.faults
    (remark,) = (r for r in report.findings.remarks if "published" in r)
    assert remark.startswith("numbers of images differ from the published tiny_precomp, in brackets: train 40 (41);")
    every_fifth_caption(folder)
    (fault,) = look(folder).findings.faults
    assert "not 5 an image as the published tiny_precomp; copy" in fault


def test_images_of_different_numbers_of_captions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Image ids say which they are; only a published set has a number to differ from."""
    scatter(folder.parents[1])
    report = look(folder)
    assert not report.findings.faults and not any("an image" in remark for remark in report.findings.remarks)
    assert [line.split()[4] for line in check.split_table(report, Protocol()).splitlines()[2:]] == ["1-4"] * 3
    monkeypatch.setitem(catalog.PROTOCOLS, NAME, Protocol(captions_per_image=5))
    told = "train has 100 captions for 40 feature rows, not 5 an image as the published tiny_precomp"
    assert told in look(folder).findings.faults[0]


def test_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_data(tmp_path, images={**COUNTS, "testall": 20}) / "data" / NAME
    monkeypatch.setitem(catalog.PROTOCOLS, NAME, Protocol(fold_images=8, dev_images=6, images={"testall": 20}))
    remarks = look(folder).findings.remarks
    assert "testall is no whole number of folds of 8 images; the last one is smaller" in remarks
    assert "of dev the first 6 images are used, as published" in remarks
    assert "test is not a part of testall, as it is where published" in remarks
    for path in folder.glob("testall*"):
        path.unlink()
    report = look(folder)
    assert not report.findings.faults and list(report.splits) == ["train", "dev", "test"]
    assert any(r.startswith("there is no testall") for r in report.findings.remarks)


# -- large files are sampled ------------------------------------------------------------------------------------------


def test_large_files_are_sampled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inventory, "WHOLE_BYTES", 20 * 4 * 12 * 4)
    monkeypatch.setattr(inventory, "SAMPLE_ROWS", 14)
    set_rows("train_ims.npy", (4, 1, 2), np.nan)(folder)
    assert run(folder) == 0, "every third row is read"
    assert "train: 14 of 40 feature rows were read; --all_rows reads all" in capsys.readouterr().out
    assert run(folder, "--all_rows") == 1
    assert "1 rows hold NaN or infinity, the first are 4;" in capsys.readouterr().out
    set_rows("train_ims.npy", (6, 1, 2), np.nan)(folder)
    (fault,) = look(folder).findings.faults
    assert "1 rows hold NaN or infinity (of 14 sampled rows; --all_rows looks at all), the first are 6;" in fault


def slow_scan(features: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    """Compare every row with every other one."""
    finite = [k for k, row in enumerate(features) if not all(np.isfinite(v) for v in row.ravel())]
    zero = [k for k, row in enumerate(features) if all(v == 0 for v in row.ravel())]
    first = [
        k
        for k, row in enumerate(features)
        if k not in zero and not any(np.array_equal(row, earlier, equal_nan=True) for earlier in features[:k])
    ]
    return finite, zero, first


@pytest.mark.parametrize("block", [1, 7, 100])
def test_a_scan_against_its_slow_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    random = np.random.RandomState(0)
    features = random.randn(30, 2, 3).astype(np.float32)
    features[random.randint(30, size=6)] = features[random.randint(30, size=6)]
    features[[2, 17]] = 0
    features[[5, 29], 1, 1] = (np.nan, np.inf)
    np.save(tmp_path / "x.npy", features)
    monkeypatch.setattr(inventory, "BLOCK_BYTES", block * features[0].nbytes)
    told: list[int] = []
    scan = scan_rows(RegionFile(tmp_path / "x.npy"), np.arange(30), told.append, np.arange(30))
    assert (scan.not_finite, scan.zero, list(scan.hashes.values())) == slow_scan(features)
    assert sum(told) == 30 and scan.is_whole
