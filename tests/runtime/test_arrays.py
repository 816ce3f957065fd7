"""Arrays written one after the other: numpy reads them back, and a fault leaves nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime import arrays
from runtime.arrays import ArrayFile
from runtime.errors import InputError


def test_numpy_reads_them_back(tmp_path: Path) -> None:
    path, one = tmp_path / "s.npz", np.random.RandomState(0).rand(300, 7).astype(np.float32)
    with ArrayFile(path) as file:
        file.write("A", one)
        file.write("mean", one[::-1, ::2])  # not contiguous
        assert not path.exists()
    with np.load(path, allow_pickle=False) as content:
        assert set(content) == {"A", "mean"} and content["A"].dtype == np.float32
        assert np.array_equal(content["A"], one) and np.array_equal(content["mean"], one[::-1, ::2])
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]


def test_no_path_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ArrayFile(None) as file:
        file.write("A", np.zeros(3))
    assert not list(tmp_path.iterdir())


def test_a_fault_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="mine"), ArrayFile(path) as file:
        file.write("A", np.zeros(3))
        raise RuntimeError("mine")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["s.npz"]


def test_a_fault_of_the_block_is_not_taken_for_one_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="features"), ArrayFile(tmp_path / "s.npz"):
        raise OSError("features cannot be read")


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="s.npz cannot be written"), ArrayFile(tmp_path / "no" / "s.npz"):
        pass

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(arrays.os, "fsync", full)
    with pytest.raises(InputError, match="s.npz cannot be written: disk full"), ArrayFile(tmp_path / "s.npz") as file:
        file.write("A", np.zeros(3))
    assert not list(tmp_path.iterdir())
