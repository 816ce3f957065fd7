"""The check of a data set: what it finds, what it says to do, how it ends."""

from __future__ import annotations

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
def root(tmp_path: Path) -> Path:
    """Data of its own, to be broken."""
    return make_tiny_data(tmp_path / "own", images=COUNTS)


@pytest.fixture
def folder(root: Path) -> Path:
    return root / "data" / NAME


def look(root: Path, name: str = NAME, *, all_rows: bool = False) -> check.Report:
    data = DataConfig(name, str(root / "data"), str(root / "vocab"), "off")
    return check.check(data, all_rows=all_rows)


def faults(root: Path, name: str = NAME) -> list[str]:
    return look(root, name).findings.faults


def the_fault(root: Path, name: str = NAME) -> str:
    (fault,) = faults(root, name)
    return fault


def run(root: Path, *flags: str, name: str = NAME) -> int:
    """Run the command; return its exit code."""
    argv = ["--data_path", str(root / "data"), "--vocab_path", str(root / "vocab"), "--data_name", name, *flags]
    try:
        check.main(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_sound_data_set(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line.split() for line in lines]
    size = (root / "data" / NAME / "test_caps.txt").stat().st_size
    assert ["train_ims", "train_ims.npy", "7.81", "kB", "40", "x", "4", "x", "12", "float32"] in cells
    assert ["test_caps", "test_caps.txt", f"{size / 1e3:.2f}", "kB", "50", "lines", "-"] in cells
    # split, images, published, captions, an image, a row is, words min, median, mean, max, distinct, unknown
    (dev,) = (c for c in cells if c[:3] == ["dev", "8", "-"])
    assert dev[3:8] == ["40", "5", "an", "image", "4"] and dev[10] == "6" and dev[12] == "0.00"
    assert lines[-1] == "usable" and not [line for line in lines if line.startswith("fault")]


def test_rows_stored_once_a_caption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_tiny_data(tmp_path, images=COUNTS, repeat_rows=True)
    report = look(root)
    assert not report.findings.faults
    assert all(s.counts is not None and s.counts.is_row_a_caption for s in report.splits.values())
    assert "a caption" in check.split_table(report, Protocol())


@pytest.mark.parametrize("suffix", ["npy", "h5"])
def test_a_missing_file(root: Path, folder: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "dev_ims.npy").unlink()
    (folder / "test_caps.txt").unlink()
    assert run(root) == 1
    out = capsys.readouterr().out
    assert "split 'dev' has no features: neither" in out and "split 'test' has no captions: neither" in out
    assert "not usable: 2 faults" in out
    assert ["dev_ims", "missing", "-", "-", "-"] in [line.split() for line in out.splitlines()]


def test_no_data_at_all_is_a_wrong_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 2
    assert capsys.readouterr().err.startswith("error: no data set 'tiny_precomp'")


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / NAME).mkdir(parents=True)
    assert run(tmp_path) == 1
    assert "not usable: 7 faults" in capsys.readouterr().out, "six files and the vocabulary"


def test_a_missing_vocabulary(root: Path) -> None:
    (root / "vocab" / f"{NAME}_vocab.json").unlink()
    fault = the_fault(root)
    assert "no vocabulary at" in fault and "python -m vocab.build" in fault


def test_a_vocabulary_of_another_data_set(root: Path, folder: Path) -> None:
    (folder / "test_caps.txt").write_text("ein gelber Hund\n" * 49 + "noch einer\n")
    assert "does not know 100 % of the words of test: it belongs to another data set" in the_fault(root)
    (folder / "test_caps.txt").write_text("a red dog outside\n" * 35 + "a red dog irgendwo draussen\n" * 15)
    report = look(root)
    assert "the vocabulary does not know 14 % of the words of test" in report.findings.remarks
    assert not report.findings.faults


def test_captions_without_spaces(root: Path, folder: Path) -> None:
    """Whatever the vocabulary: one of whole captions knows them all."""
    captions = [f"第{k}张照片里有一只狗" for k in range(200)]
    (folder / "train_caps.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    Vocabulary.build(captions + ["red dog"], 1).save(root / "vocab" / f"{NAME}_vocab.json")
    found = faults(root)
    assert "train_caps.txt: the captions have no spaces between words" in found[0] and "segment them" in found[0]
    assert len(found) == 3, "train's words are known; dev's and test's are not"
    (folder / "train_caps.txt").write_text("dog\ncat\ncar\nred\ntrain\n" * 40)
    assert not any("spaces" in fault for fault in faults(root)), "labels are short captions"


# -- counts -----------------------------------------------------------------------------------------------------------


def swap(folder: Path, one: str, other: str, *suffixes: str) -> None:
    """Exchange files of two splits."""
    for suffix in suffixes:
        shutil.move(folder / f"{one}{suffix}", folder / "aside")
        shutil.move(folder / f"{other}{suffix}", folder / f"{one}{suffix}")
        shutil.move(folder / "aside", folder / f"{other}{suffix}")


def test_train_and_test_swapped(root: Path, folder: Path) -> None:
    swap(folder, "train", "test", "_ims.npy", "_caps.txt")
    assert "train is smaller than test (10 images, 40): the files of the two are probably swapped" in the_fault(root)


def test_features_of_one_split_and_captions_of_another(root: Path, folder: Path) -> None:
    swap(folder, "dev", "test", "_ims.npy")
    found = faults(root)
    assert any("counts do not divide: 8 feature rows" in f and "test_ims.npy but 50 captions" in f for f in found)
    (dev, test) = (f for f in found if "mixed" in f)
    assert "dev has 40 captions for 10 feature rows, not 5 an image; test has the captions that would fit and" in dev
    assert "test has the features that would fit: files of different splits are mixed; copy them again" in dev
    assert "dev has the captions that would fit and dev has the features that would fit" in test


def test_a_mixture_that_divides(root: Path, folder: Path) -> None:
    """25 captions an image is a whole number, but not the other splits'."""
    shutil.copy(folder / "train_caps.txt", folder / "dev_caps.txt")
    found = faults(root)
    assert len(found) == 2
    assert "dev has 200 captions for 8 feature rows, not 5 an image; train has the features that would fit" in found[0]
    assert "the captions of train and dev are the same, line by line" in found[1]


def test_another_number_of_captions_is_told(root: Path, folder: Path) -> None:
    captions = (folder / "test_caps.txt").read_text().splitlines()
    (folder / "test_caps.txt").write_text("\n".join(captions[::5]) + "\n")
    report = look(root)
    assert not report.findings.faults
    assert "test has 10 captions for 10 feature rows, not 5 an image as the other splits" in report.findings.remarks


def test_the_published_number_of_captions(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.PROTOCOLS, NAME, Protocol(captions_per_image=5, images={**COUNTS, "train": 41}))
    report = look(root)
    assert not report.findings.faults
    (remark,) = (r for r in report.findings.remarks if "published" in r)
    assert remark.startswith("numbers of images differ from the published tiny_precomp, in brackets: train 40 (41);")
    captions = (folder / "test_caps.txt").read_text().splitlines()
    (folder / "test_caps.txt").write_text("\n".join(captions[::5]) + "\n")
    assert "not 5 an image as the published tiny_precomp; copy" in the_fault(root)


def test_images_of_different_numbers_of_captions(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Image ids say which they are; only a published set has a number to differ from."""
    scatter(root)
    report = look(root)
    assert not report.findings.faults and not any("an image" in remark for remark in report.findings.remarks)
    assert [line.split()[4] for line in check.split_table(report, Protocol()).splitlines()[2:]] == ["1-4"] * 3
    monkeypatch.setitem(catalog.PROTOCOLS, NAME, Protocol(captions_per_image=5))
    assert "train has 100 captions for 40 feature rows, not 5 an image as the published tiny_precomp" in faults(root)[0]


def test_dimensions_that_differ(root: Path, folder: Path) -> None:
    np.save(folder / "dev_ims.npy", np.load(folder / "dev_ims.npy")[:, :3])
    assert "differ (train 4 x 12, dev 3 x 12, test 4 x 12); all splits must agree" in the_fault(root)


def test_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tiny_data(tmp_path, images={**COUNTS, "testall": 20})
    monkeypatch.setitem(catalog.PROTOCOLS, NAME, Protocol(fold_images=8, dev_images=6, images={"testall": 20}))
    remarks = look(root).findings.remarks
    assert "testall is no whole number of folds of 8 images; the last one is smaller" in remarks
    assert "of dev the first 6 images are used, as published" in remarks
    assert "test is not a part of testall, as it is where published" in remarks
    folder = root / "data" / NAME
    for path in folder.glob("testall*"):
        path.unlink()
    report = look(root)
    assert not report.findings.faults and list(report.splits) == ["train", "dev", "test"]
    assert any(r.startswith("there is no testall") for r in report.findings.remarks)


# -- files that are broken --------------------------------------------------------------------------------------------


def as_hdf5(folder: Path, split: str) -> Path:
    """Turn a split's npy into HDF5."""
    path = folder / f"{split}_ims.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=np.load(folder / f"{split}_ims.npy"), chunks=(1, 4, 12))
    (folder / f"{split}_ims.npy").unlink()
    return path


@pytest.mark.parametrize("kind", ["npy", "h5"])
def test_truncated_features(root: Path, folder: Path, kind: str) -> None:
    path = folder / "train_ims.npy" if kind == "npy" else as_hdf5(folder, "train")
    path.write_bytes(path.read_bytes()[:-1])
    fault = the_fault(root)
    assert f"train_ims.{kind} is cut short" in fault and "copy it again" in fault
    row = check.file_table(look(root)).splitlines()[2].split()
    assert row == ["train_ims", "unreadable", "-", "-", "-"]


def spoil(path: Path, *rows: int, value: float) -> None:
    features = np.load(path)
    features[list(rows), 1, 2] = value
    np.save(path, features)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite(root: Path, folder: Path, value: float) -> None:
    spoil(folder / "train_ims.npy", 3, 5, 7, 9, 11, 39, value=value)
    fault = the_fault(root)
    assert "train_ims.npy: 6 rows hold NaN or infinity, the first are 3, 5, 7, 9, 11, ...; extract" in fault


def test_rows_of_zeros(root: Path, folder: Path) -> None:
    features = np.load(folder / "train_ims.npy")
    features[[4, 7]] = 0
    np.save(folder / "train_ims.npy", features)
    report = look(root)
    assert "train_ims.npy: 2 rows are all zero, the first are 4, 7" in report.findings.remarks
    assert not report.findings.faults
    np.save(folder / "train_ims.npy", 0 * features)
    assert "train_ims.npy holds nothing but zeros; extract train again" in the_fault(root)


def test_equal_rows_within_a_split(root: Path, folder: Path) -> None:
    features = np.load(folder / "test_ims.npy")
    features[7] = features[2]
    np.save(folder / "test_ims.npy", features)
    told = "1 rows equal a row of another image, 10.0 % of all (first: rows 2 and 7)"
    assert f"test_ims.npy: {told}; extract test again" in the_fault(root), "which of the two is found is chance"
    train = np.load(folder / "train_ims.npy")
    for copies, kind in ((21, "remarks"), (22, "faults"), (40, "faults")):
        train[:copies] = 1
        np.save(folder / "train_ims.npy", train)
        found = look(root).findings
        assert any(f"train_ims.npy: {copies - 1} rows equal" in text for text in getattr(found, kind))


def test_two_files_of_one_kind(root: Path, folder: Path) -> None:
    shutil.copy(folder / "train_ims.npy", folder / "aside.npy")
    as_hdf5(folder, "train")
    shutil.move(folder / "aside.npy", folder / "train_ims.npy")
    (folder / "dev_caps.tsv").write_text("1\ta\n")
    (folder / "test_ims.h5.part").write_bytes(b"")
    (folder / "train_ids.txt").write_text("1\n2\n")
    remarks = look(root).findings.remarks
    assert "train_ims.npy and train_ims.h5 are both there; train_ims.npy is read" in remarks
    assert "dev_caps.txt and dev_caps.tsv are both there; dev_caps.txt is read" in remarks
    assert "unfinished files, which nothing reads: test_ims.h5.part" in remarks
    assert any(r.startswith("train_ids.txt holds 2 ids for 200 captions and 40 feature rows") for r in remarks)


# -- what splits share ------------------------------------------------------------------------------------------------


def test_images_of_test_in_train(root: Path, folder: Path) -> None:
    train, test = np.load(folder / "train_ims.npy"), np.load(folder / "test_ims.npy")
    train[[30, 12]] = test[[2, 9]]
    np.save(folder / "train_ims.npy", train)
    fault = the_fault(root)
    assert fault.startswith(
        "train and test share 2 feature rows, 20.0 % of test (first: row 30 of train is row 2 of test)"
    )
    (found,) = (s for s in look(root).shared if (s.first, s.second) == ("train", "test"))
    assert (found.rows, found.row_pair) == (2, (30, 2))


def test_captions_in_two_splits(root: Path, folder: Path) -> None:
    lines = (folder / "train_caps.txt").read_text().splitlines()
    mine = [f"{line} number {k}" for k, line in enumerate((folder / "test_caps.txt").read_text().splitlines())]
    mine[3], mine[7], mine[8] = lines[100], lines[100], lines[5]
    (folder / "test_caps.txt").write_text("\n".join(mine) + "\n")
    report = look(root)
    assert "3 caption lines of test (6.0 %) are in train too" in report.findings.remarks
    (row,) = (line.split() for line in check.shared_table(report).splitlines() if line.startswith("test in train"))
    assert row == ["test", "in", "train", "3", "6.0", "0", "0.0"]


# -- large files are sampled ------------------------------------------------------------------------------------------


def test_large_files_are_sampled(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inventory, "WHOLE_BYTES", 20 * 4 * 12 * 4)
    monkeypatch.setattr(inventory, "SAMPLE_ROWS", 14)
    assert inventory.rows_to_read(RegionFile(folder / "train_ims.npy"), False).tolist() == list(range(0, 40, 3))
    assert inventory.rows_to_read(RegionFile(folder / "train_ims.npy"), True).tolist() == list(range(40))
    assert inventory.rows_to_read(RegionFile(folder / "test_ims.npy"), False).tolist() == list(range(10))
    spoil(folder / "train_ims.npy", 4, value=np.nan)
    assert run(root) == 0
    assert "train: 14 of 40 feature rows were read; --all_rows reads all" in capsys.readouterr().out
    assert run(root, "--all_rows") == 1
    assert "1 rows hold NaN or infinity, the first are 4;" in capsys.readouterr().out
    spoil(folder / "train_ims.npy", 6, value=np.nan)
    assert "1 rows hold NaN or infinity (of 14 sampled rows; --all_rows looks at all), the first are 6;" in the_fault(
        root
    )


def test_a_sample_estimates_what_is_shared(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "WHOLE_BYTES", 20 * 4 * 12 * 4)
    monkeypatch.setattr(inventory, "SAMPLE_ROWS", 20)
    train, test = np.load(folder / "train_ims.npy"), np.load(folder / "test_ims.npy")
    sampled = inventory.rows_to_read(RegionFile(folder / "train_ims.npy"), False)
    train[[*sampled[:2], sampled[2] + 1]] = test[:3]
    np.save(folder / "train_ims.npy", train)
    fault = the_fault(root)
    assert "share 2 feature rows among those sampled, about 40.0 % of test" in fault, "2 of 20 rows are 4 of 40"


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
    add: Callable[[int], None] = told.append
    scan = scan_rows(RegionFile(tmp_path / "x.npy"), np.arange(30), add, np.arange(30))
    assert (scan.not_finite, scan.zero, list(scan.hashes.values())) == slow_scan(features)
    assert sum(told) == 30 and scan.is_whole


def test_the_embedded_set_is_usable(capsys: pytest.CaptureFixture[str]) -> None:
    check.main([])
    assert capsys.readouterr().out.splitlines()[-1] == "usable"
