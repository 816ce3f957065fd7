"""Region features from npy and HDF5."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from data_utils import regions
from data_utils.regions import RegionStore
from runtime.errors import InputError

SCALES = np.array([0.5, 0.25, 2.0], dtype=np.float32)
CODES = np.random.RandomState(0).randint(-127, 128, (7, 2, 3)).astype(np.int8)
FEATURES = CODES * SCALES  # halves and quarters: the same in float16, float32 and int8 with scales
ROWS = [[0, 1, 2], [6], [4, 1, 1, 0, 4], [3, 3], []]


def store(folder: Path, kind: str) -> RegionStore:
    """Write FEATURES in one of the layouts and open them."""
    path = folder / f"train_ims.{'npy' if kind.startswith('npy') else 'h5'}"
    if kind == "npy":
        np.save(path, FEATURES.astype(np.float32))
    elif kind == "npy float64":
        np.save(path, FEATURES.astype(np.float64))
    else:
        with h5py.File(path, "w") as file:
            if kind == "int8":
                file["features"], file["scales"] = CODES, SCALES
            else:
                file["features"] = FEATURES.astype(np.float16)
    return RegionStore(folder, "train")


@pytest.mark.parametrize("kept_bytes", [regions.IN_MEMORY_BYTES, 0])
@pytest.mark.parametrize("kind", ["npy", "npy float64", "float16", "int8"])
def test_all_layouts_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, kept_bytes: int
) -> None:
    monkeypatch.setattr(regions, "IN_MEMORY_BYTES", kept_bytes)
    opened = store(tmp_path, kind)
    assert opened.shape == (7, 2, 3) and len(opened) == 7
    for rows in ROWS[:-1]:
        read = opened.read(np.array(rows))
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, FEATURES[rows])


def test_npy_is_not_read_whole(tmp_path: Path) -> None:
    opened = store(tmp_path, "npy")
    assert isinstance(opened._array, np.memmap)
    opened.read(np.array([1]))[:] = 0  # a copy: the file stays as it is
    np.testing.assert_array_equal(opened.read(np.array([1])), FEATURES[[1]])


def test_large_hdf5_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(store(tmp_path, "int8")._array, np.ndarray)
    monkeypatch.setattr(regions, "IN_MEMORY_BYTES", 4 * FEATURES.size - 1)
    assert isinstance(store(tmp_path, "int8")._array, h5py.Dataset)


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


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["npy", "float16", "int8"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = store(tmp_path, kind).path
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=path.name):
        RegionStore(tmp_path, "train").read(np.arange(7))
