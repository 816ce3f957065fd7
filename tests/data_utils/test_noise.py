"""Noisy correspondence: made, read, measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from data_utils.noise import NoiseConfig, NoiseReport, inject, load_index, make_index, measure, save_index
from runtime.errors import InputError


def own(num_images: int, captions_per_image: int) -> np.ndarray:
    return np.repeat(np.arange(num_images), captions_per_image)


def test_the_stream_never_changes() -> None:
    """Recorded: the same seed gives the same noise on every machine and numpy version."""
    assert make_index(4, 2, 0.5, "caption", 7).tolist() == [1, 0, 3, 1, 2, 2, 0, 3]
    assert make_index(4, 2, 0.5, "image", 7).tolist() == [0, 0, 2, 2, 1, 1, 3, 3]
    expected = [0, 0, 0, 0, 2, 1, 1, 0, 5, 1, 2, 5, 4, 2, 2, 3, 3, 3, 1, 3, 4, 1, 4, 4, 4, 5, 5, 2, 5, 3]
    assert make_index(6, 5, 0.4, "caption", 123).tolist() == expected


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.37, 0.6, 0.99])
@pytest.mark.parametrize("captions_per_image", [1, 5])
def test_caption_protocol(ratio: float, captions_per_image: int) -> None:
    index = make_index(300, captions_per_image, ratio, "caption", 123)
    true = own(300, captions_per_image)
    moved = int((index != true).sum())
    picked = int(ratio * len(true))
    assert index.dtype == np.int64 and len(index) == len(true)
    assert sorted(index) == sorted(true), "images are shuffled, none is lost or doubled"
    # a picked caption keeps its image with probability of about captions_per_image / captions
    assert picked - 12 <= moved <= picked
    assert measure(index, captions_per_image, ratio).measured_ratio == moved / len(true)


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.6])
def test_image_protocol(ratio: float) -> None:
    index = make_index(300, 5, ratio, "image", 123)
    by_image = index.reshape(300, 5)
    assert (by_image == by_image[:, :1]).all(), "the captions of an image move together"
    assert sorted(by_image[:, 0]) == list(range(300))
    moved = int((by_image[:, 0] != np.arange(300)).sum())
    assert int(ratio * 300) - 6 <= moved <= int(ratio * 300)


def test_another_seed_is_another_noise() -> None:
    one, other = (make_index(50, 5, 0.4, "caption", seed) for seed in (1, 2))
    assert (one != other).any()
    assert np.array_equal(one, make_index(50, 5, 0.4, "caption", 1))


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.6])
@pytest.mark.parametrize("kind", ["caption", "image"])
def test_the_protocol_is_told_from_the_index(kind: str, ratio: float) -> None:
    report = measure(make_index(500, 5, ratio, kind, 3), 5, ratio)
    assert report.protocol == kind and report.asked_ratio == ratio
    assert abs(report.measured_ratio - ratio) < 0.01


def test_measured_by_hand() -> None:
    # 3 images x 2 captions: captions 1 and 4 carry another image
    assert measure(np.array([0, 2, 1, 1, 0, 2]), 2, 0.5) == NoiseReport("caption", 0.5, 2 / 6)
    assert measure(np.array([1, 1, 0, 0, 2, 2]), 2, 0.5) == NoiseReport("image", 0.5, 4 / 6)
    assert measure(np.array([0, 0, 1, 1, 2, 2]), 2, 0.5) == NoiseReport("none", 0.5, 0.0)
    assert measure(np.array([1, 0, 2]), 1, 0.5).protocol == "caption", "one caption an image: the two are the same"


def test_no_noise_is_the_identity() -> None:
    index, report = inject(NoiseConfig(), 7, 5)
    assert index.tolist() == own(7, 5).tolist()
    assert report == NoiseReport("none", 0.0, 0.0)


@pytest.mark.parametrize("kind", ["caption", "image"])
def test_save_and_load(tmp_path: Path, kind: str) -> None:
    index = make_index(40, 5, 0.4, kind, 9)
    path = tmp_path / "new" / "noise_0.4.npy"
    save_index(path, index, measure(index, 5, 0.4), 9)
    assert np.array_equal(load_index(path, 40, 5), index)
    record = json.loads((tmp_path / "new" / "noise_0.4.json").read_text(encoding="utf-8"))
    assert record == {
        "protocol": kind,
        "ratio": 0.4,
        "seed": 9,
        "measured_mismatch": float((index != own(40, 5)).mean()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert sorted(p.name for p in path.parent.iterdir()) == ["noise_0.4.json", "noise_0.4.npy"]


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_an_index_by_image_moves_all_captions(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "n.npy", np.array([2, 1, 0], dtype=dtype))
    index = load_index(tmp_path / "n.npy", 3, 2)
    assert index.tolist() == [2, 2, 1, 1, 0, 0] and index.dtype == np.int64


def test_a_file_that_does_not_exist_is_made_and_then_used(tmp_path: Path) -> None:
    path = tmp_path / "made.npy"
    first, report = inject(NoiseConfig(noise_ratio=0.4, noise_file=str(path)), 40, 5)
    assert path.is_file() and report.protocol == "caption"
    assert np.array_equal(first, make_index(40, 5, 0.4, "caption", 123))
    other = NoiseConfig(noise_ratio=0.4, noise_file=str(path), noise_seed=5, noise_protocol="image")
    again, same = inject(other, 40, 5)
    assert np.array_equal(again, first) and same == report, "the file wins over the seed and the protocol"


@pytest.mark.parametrize(
    "content",
    [
        np.zeros(7, np.int64),
        np.zeros((3, 2), np.int64),
        np.zeros(6, np.float32),
        np.zeros(0, np.int64),
        np.array([0, 0, 1, 1, 2, 3]),
        np.array([0, 0, 1, 1, 2, -1]),
        np.array([0, 3, 1]),
    ],
)
def test_indices_that_do_not_fit(tmp_path: Path, content: np.ndarray) -> None:
    np.save(tmp_path / "n.npy", content)
    with pytest.raises(InputError, match="--noise_file .*n.npy"):
        load_index(tmp_path / "n.npy", 3, 2)


def test_an_index_that_is_no_npy_file(tmp_path: Path) -> None:
    for content in (b"", b"text", b"\x93NUMPY"):
        (tmp_path / "n.npy").write_bytes(content)
        with pytest.raises(InputError, match="--noise_file"):
            load_index(tmp_path / "n.npy", 3, 2)


def test_real_noise_is_not_added_to() -> None:
    for config in (NoiseConfig(noise_ratio=0.2), NoiseConfig(noise_file="x.npy")):
        with pytest.raises(InputError, match="real noise"):
            inject(config, 5, 1, has_real_noise=True)
    index, _ = inject(NoiseConfig(), 5, 1, has_real_noise=True)
    assert index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_ratios_out_of_range(ratio: float) -> None:
    with pytest.raises(InputError, match="--noise_ratio"):
        NoiseConfig(noise_ratio=ratio)
