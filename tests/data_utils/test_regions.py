"""Region features from npy and HDF5."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pytest

from data_utils import regions
from data_utils.regions import RegionFile, RegionStore
from runtime.errors import InputError

SCALES = np.array([0.5, 0.25, 2.0], dtype=np.float32)
CODES = np.random.RandomState(0).randint(-127, 128, (7, 2, 3)).astype(np.int8)
FEATURES = CODES * SCALES  # halves and quarters: the same in float16, float32 and int8 with scales
ROWS = [[0, 1, 2], [6], [4, 1, 1, 0, 4], [3, 3], [6, 5, 2, 3, 4, 0], [5, 6, 5, 6, 0, 1, 0], []]
LAYOUTS = {
    "npy": np.float32,
    "npy float64": np.float64,
    "npy float16": np.float16,
    "npy big-endian": np.dtype(">f4"),
    "npy longdouble": np.longdouble,
    "npy Fortran": np.float32,
}


def mapped_bytes() -> int:
    """Return how much of this process's resident memory is pages of files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssFile:")[1].split()[0])


def store(folder: Path, kind: str) -> RegionStore:
    """Write FEATURES in one of the layouts and open them."""
    path = folder / f"train_ims.{'npy' if kind.startswith('npy') else 'h5'}"
    if kind in LAYOUTS:
        np.save(path, FEATURES.astype(LAYOUTS[kind], order="F" if kind == "npy Fortran" else "C"))
    else:
        with h5py.File(path, "w") as file:
            if kind == "int8":
                file["features"], file["scales"] = CODES, SCALES
            else:
                file["features"] = FEATURES.astype(np.float16)
    return RegionStore(folder, "train")


@pytest.mark.parametrize("kept_bytes", [regions.IN_MEMORY_BYTES, 0])
@pytest.mark.parametrize("kind", [*LAYOUTS, "float16", "int8"])
def test_all_layouts_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, kept_bytes: int
) -> None:
    monkeypatch.setattr(regions, "IN_MEMORY_BYTES", kept_bytes)
    opened = store(tmp_path, kind)
    assert opened.shape == (7, 2, 3) and len(opened) == 7
    for rows in ROWS:
        read = opened.read(np.array(rows, dtype=np.int64))
        assert read.dtype == np.float32 and read.flags.c_contiguous
        np.testing.assert_array_equal(read, FEATURES[rows])


@pytest.mark.parametrize("kind", LAYOUTS)
def test_npy_is_not_read_whole(tmp_path: Path, kind: str) -> None:
    opened = store(tmp_path, kind)
    assert isinstance(opened._array, np.memmap)
    opened.read(np.array([1]))[:] = 0  # a copy: the file stays as it is
    np.testing.assert_array_equal(opened.read(np.array([1])), FEATURES[[1]])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="resident memory is read from /proc")
def test_reading_leaves_no_pages_of_the_file_resident(tmp_path: Path) -> None:
    """A memory map's pages would count: 32 MB here, all of the file in an epoch."""
    np.save(tmp_path / "train_ims.npy", np.ones((512, 16, 1024), np.float32))
    opened = RegionStore(tmp_path, "train")
    before = mapped_bytes()
    for start in range(0, 512, 32):
        opened.read(np.arange(start, start + 32))
    assert mapped_bytes() - before < 2**20
    assert isinstance(opened._array, np.memmap)
    float(opened._array.sum())
    assert mapped_bytes() - before > 30 * 2**20, "this is how a memory map shows"


@pytest.mark.parametrize("value", [3e38, 1e20])
def test_large_numbers_are_finite(tmp_path: Path, value: float) -> None:
    """The sum of their squares is not."""
    np.save(tmp_path / "train_ims.npy", np.full((3, 2, 3), value, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RegionStore(tmp_path, "train").read(np.arange(3)).min() == np.float32(value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["npy", "h5"])
def test_a_value_that_is_no_number_names_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, value: float
) -> None:
    monkeypatch.setattr(regions, "IN_MEMORY_BYTES", 0)
    broken = FEATURES.astype(np.float32)
    broken[5, 1, 2] = value
    if kind == "npy":
        np.save(tmp_path / "train_ims.npy", broken)
    else:
        with h5py.File(tmp_path / "train_ims.h5", "w") as file:
            file["features"] = broken
    opened = RegionStore(tmp_path, "train")
    np.testing.assert_array_equal(opened.read(np.array([4, 6])), FEATURES[[4, 6]])
    with pytest.raises(InputError, match="row 5 holds NaN"):
        opened.read(np.array([6, 5, 1, 5]))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5, np.float32), "must be"),
        (np.zeros((5, 4), np.float32), "must be"),
        (np.zeros((2, 3, 4, 5), np.float32), "must be"),
        (np.zeros((0, 3, 4), np.float32), ""),
        (np.zeros((2, 3, 4), np.int64), "int64"),
        (np.array([["a"]]), "holds"),
        (np.array([None, {}], dtype=object), "numeric"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "train_ims.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=f"train_ims.npy.*{message}"):
        RegionStore(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": FEATURES}, "no dataset 'features'; it holds other"),
        ({}, "holds nothing"),
        ({"features": CODES}, "int8 with a dataset 'scales'"),
        ({"features": CODES, "scales": SCALES[:2]}, "scales"),
        ({"features": FEATURES[0]}, "must be"),
        ({"features/inner": FEATURES}, "no dataset 'features'"),
    ],
)
def test_other_hdf5_is_refused(tmp_path: Path, content: dict[str, np.ndarray], message: str) -> None:
    with h5py.File(tmp_path / "train_ims.h5", "w") as file:
        for name, array in content.items():
            file[name] = array
    with pytest.raises(InputError, match=message):
        RegionStore(tmp_path, "train")


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("missing", [1, 100])
def test_a_cut_npy_says_how_much_is_missing(tmp_path: Path, version: tuple[int, int], missing: int) -> None:
    path = tmp_path / "train_ims.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array(file, FEATURES.astype(np.float32), version=version)
    whole = path.stat().st_size
    os.truncate(path, whole - missing)
    needed = rf"shape \(7, 2, 3\) of float32 takes {whole} bytes, it has {whole - missing}; copy it again"
    with pytest.raises(InputError, match=f"train_ims.npy is cut short: {needed}"):
        RegionStore(tmp_path, "train")


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_that_is_cut_while_it_is_in_use_is_told(tmp_path: Path, order: Literal["C", "F"]) -> None:
    path = tmp_path / "train_ims.npy"
    np.save(path, np.zeros((64, 36, 64), np.float32, order=order))
    opened = RegionFile(path)
    opened.read(np.array([63]))
    os.truncate(path, 10_000)
    with pytest.raises(InputError, match="train_ims.npy was cut short while it was in use"):
        opened.read(np.array([63]))


def test_a_cut_hdf5_says_so(tmp_path: Path) -> None:
    path = store(tmp_path, "float16").path
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputError, match="train_ims.h5 is cut short; copy it again"):
        RegionStore(tmp_path, "train")
    path.write_bytes(b"text")
    with pytest.raises(InputError, match="train_ims.h5 is not an HDF5 file"):
        RegionStore(tmp_path, "train")


def test_a_damaged_chunk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "train_ims.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("features", data=FEATURES, chunks=(1, 2, 3), compression="gzip")
        place = dataset.id.get_chunk_info(4).byte_offset
    with open(path, "r+b") as raw:
        raw.seek(place)
        raw.write(b"\0" * 8)
    opened = RegionFile(path)
    np.testing.assert_array_equal(opened.read(np.array([0, 3, 5])), FEATURES[[0, 3, 5]])
    for rows in ([3, 4], [1, 4, 6]):
        with pytest.raises(InputError, match="train_ims.h5 is damaged; copy it again"):
            opened.read(np.array(rows))


def test_rows_that_are_stored_together(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("features", data=FEATURES, chunks=(4, 1, 3))
    assert RegionFile(tmp_path / "x.h5").block_rows == 4


@pytest.mark.parametrize("kind", ["npy float64", "npy Fortran", "float16"])
def test_unchecked_rows(tmp_path: Path, kind: str) -> None:
    """What is not finite passes; a number beyond float32 counts as such."""
    opened = store(tmp_path, kind)
    path, broken = opened.path, FEATURES.astype(np.float16 if kind == "float16" else np.float64)
    broken[2, 1, 1] = np.inf if kind == "float16" else 1e39
    if kind == "float16":
        with h5py.File(path, "w") as file:
            file["features"] = broken
    else:
        np.save(path, np.asarray(broken, order="F" if kind == "npy Fortran" else "C"))
    opened = RegionFile(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened.read_unchecked(np.array([1, 2]))[1, 1, 1] == np.inf
        with pytest.raises(InputError, match="row 2 holds NaN or infinite"):
            opened.read(np.array([1, 2]))
