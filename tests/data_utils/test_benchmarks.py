"""The benchmarks of reading run, and what they compare is equal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import data_loading, large_file
from benchmarks.data_loading import made_up_captions, made_up_vocabulary
from data_utils.regions import RegionStore
from runtime.errors import InputError

SMALL = "--gpu cpu --module_name VSE --embed_size 16 --word_dim 8 --batch_size 16 --warmup_epoch 999".split()


def test_made_up_captions() -> None:
    vocabulary = made_up_vocabulary()
    captions = made_up_captions(2000, vocabulary)
    assert captions == made_up_captions(2000, vocabulary) != made_up_captions(2000, vocabulary, 1)
    words = [len(caption.split()) for caption in captions]
    assert 11 < np.mean(words) < 14 and np.std(words) > 3
    for mark in (",", "'s", "-", '"'):
        assert 0.02 < np.mean([mark in caption for caption in captions]) < 0.2
    ids, _ = vocabulary.encode_all(captions)
    assert (ids == vocabulary.unknown_id).mean() < 0.02


def test_reading_against_the_published_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NUM_IMAGES": 30, "REGIONS": 4, "DIMS": 8, "NUM_CAPTIONS": 200, "BATCH_SIZE": 16}.items():
        monkeypatch.setattr(data_loading, name, value)
    data_loading.main(["--repeats", "11", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == 4
    assert {row["max_diff"] for row in rows} == {0.0}


@pytest.fixture
def small_large_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The large file's folder, not so large."""
    monkeypatch.setattr(large_file, "NUM_IMAGES", {"train": 40, "dev": 4, "test": 4})
    monkeypatch.setattr(large_file, "REGIONS", 4)
    monkeypatch.setattr(large_file, "DIMS", 300)
    return tmp_path


def test_the_large_file(small_large_file: Path) -> None:
    large_file.make_large_data(small_large_file)
    regions = RegionStore(small_large_file / "data" / "large", "train")
    assert regions.shape == (40, 4, 300)
    assert np.flatnonzero(regions.read(np.arange(40)).any(axis=(1, 2))).tolist() == [0, 16, 32]
    start = large_file.watch("some start", small_large_file, 3, SMALL)
    assert start.steps >= 3 and 0 < start.ready_s <= start.first_loss_s
    assert 50 < start.resident_mib < 4000 and start.peak_mib > 50


def test_a_run_that_fails_is_told(small_large_file: Path) -> None:
    with pytest.raises(InputError, match="code 2: error: no data set"):
        large_file.watch("some start", small_large_file, 1, SMALL)
