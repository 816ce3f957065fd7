"""Noisy correspondence: made, read, measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from data_utils.noise import (
    NoiseConfig,
    NoiseReport,
    inject,
    make_index,
    measure,
    read_index,
    save_index,
    share_moved_together,
)
from runtime.errors import InputError
from tools.noise import is_shuffle


def own(num_images: int, captions_per_image: int) -> np.ndarray:
    return np.repeat(np.arange(num_images), captions_per_image)


def test_the_stream_never_changes() -> None:
    """Recorded: the same seed gives the same noise on every machine and numpy version."""
    assert make_index(own(4, 2), 0.5, "caption", 7).tolist() == [1, 0, 3, 1, 2, 2, 0, 3]
    assert make_index(own(4, 2), 0.5, "image", 7).tolist() == [0, 0, 2, 2, 1, 1, 3, 3]
    expected = [0, 0, 0, 0, 2, 1, 1, 0, 5, 1, 2, 5, 4, 2, 2, 3, 3, 3, 1, 3, 4, 1, 4, 4, 4, 5, 5, 2, 5, 3]
    assert make_index(own(6, 5), 0.4, "caption", 123).tolist() == expected


def test_measured_by_hand() -> None:
    # 3 images x 2 captions: captions 1 and 4 carry another image
    assert measure(np.array([0, 2, 1, 1, 0, 2]), own(3, 2), 0.5) == NoiseReport("caption", 0.5, 2 / 6)
    assert measure(np.array([1, 1, 0, 0, 2, 2]), own(3, 2), 0.5) == NoiseReport("image", 0.5, 4 / 6)
    assert measure(np.array([0, 0, 1, 1, 2, 2]), own(3, 2), 0.5) == NoiseReport("none", 0.5, 0.0)
    assert measure(np.array([1, 0, 2]), own(3, 1), 0.5).protocol == "caption", (
        "one caption an image: the two are the same"
    )


@pytest.mark.parametrize("kind", ["caption", "image"])
def test_save_and_load(tmp_path: Path, kind: str) -> None:
    index = make_index(own(40, 5), 0.4, kind, 9)
    path = tmp_path / "new" / "noise_0.4.npy"
    save_index(path, index, measure(index, own(40, 5), 0.4), 9)
    assert np.array_equal(read_index(path, own(40, 5)).index, index)
    record = json.loads((tmp_path / "new" / "noise_0.4.json").read_text(encoding="utf-8"))
    assert record == {
        "protocol": kind,
        "ratio": 0.4,
        "seed": 9,
        "measured_mismatch": float((index != own(40, 5)).mean()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert sorted(p.name for p in path.parent.iterdir()) == ["noise_0.4.json", "noise_0.4.npy"]


def test_a_file_that_does_not_exist_is_made_and_then_used(tmp_path: Path) -> None:
    path = tmp_path / "made.npy"
    first, report = inject(NoiseConfig(noise_ratio=0.4, noise_file=str(path)), own(40, 5))
    assert path.is_file() and report.protocol == "caption"
    assert np.array_equal(first, make_index(own(40, 5), 0.4, "caption", 123))
    other = NoiseConfig(noise_ratio=0.4, noise_file=str(path), noise_seed=5, noise_protocol="image")
    again, same = inject(other, own(40, 5))
    assert np.array_equal(again, first) and same == report, "the file wins over the seed and the protocol"
    made, _ = inject(NoiseConfig(noise_ratio=0.4, noise_seed=5, noise_protocol="image"), own(40, 5))
    assert np.array_equal(made, make_index(own(40, 5), 0.4, "image", 5))


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
        read_index(tmp_path / "n.npy", own(3, 2))


def test_real_noise_is_not_added_to() -> None:
    for config in (NoiseConfig(noise_ratio=0.2), NoiseConfig(noise_file="x.npy")):
        with pytest.raises(InputError, match="real noise"):
            inject(config, own(5, 1), has_real_noise=True)
    index, _ = inject(NoiseConfig(), own(5, 1), has_real_noise=True)
    assert index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_ratios_out_of_range(ratio: float) -> None:
    with pytest.raises(InputError, match="--noise_ratio"):
        NoiseConfig(noise_ratio=ratio)


# -- the three published kinds, made with numpy by hand ------------------------------------------------------------

IMAGES, PER_IMAGE, RATIO = 200, 5, 0.4


def published(kind: str) -> np.ndarray:
    """Make an index as its authors do, with none of our functions."""
    numpy_random = np.random.RandomState(5)
    images = np.arange(IMAGES)
    if kind == "ncr":
        index = np.arange(IMAGES * PER_IMAGE) // PER_IMAGE
        chosen = numpy_random.choice(len(index), int(RATIO * len(index)), replace=False)
        shuffled = index[chosen].copy()
        numpy_random.shuffle(shuffled)
        index[chosen] = shuffled
        return index
    chosen = numpy_random.choice(IMAGES, int(RATIO * IMAGES), replace=False)
    shuffled = images[chosen].copy()
    numpy_random.shuffle(shuffled)
    images[chosen] = shuffled
    return images if kind == "rcl" else np.concatenate([[image] * PER_IMAGE for image in images])


def slow_mismatch(index: np.ndarray) -> float:
    per_entry = IMAGES * PER_IMAGE // len(index)
    wrong = 0
    for caption in range(IMAGES * PER_IMAGE):
        wrong += int(index[caption // per_entry]) != caption // PER_IMAGE
    return wrong / (IMAGES * PER_IMAGE)


KINDS = {"ncr": ("caption", 1000), "l2rm": ("image", 1000), "rcl": ("image", 200)}
"""Protocol and entries."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_three_published_kinds(tmp_path: Path, kind: str) -> None:
    protocol, entries = KINDS[kind]
    index = published(kind)
    np.save(tmp_path / "n.npy", index)
    file = read_index(tmp_path / "n.npy", own(IMAGES, PER_IMAGE))
    assert file.entries == entries == len(index) and len(file.index) == IMAGES * PER_IMAGE
    report = measure(file.index, own(IMAGES, PER_IMAGE), RATIO)
    assert report == NoiseReport(protocol, RATIO, slow_mismatch(index))
    assert 0.36 < report.measured_ratio <= RATIO
    assert share_moved_together(file.index, own(IMAGES, PER_IMAGE)) == pytest.approx(
        1.0 if protocol == "image" else 0.0, abs=0.02
    )


@pytest.mark.parametrize("ratio", [0.9, 0.97, 0.999])
@pytest.mark.parametrize("kind", ["caption", "image"])
def test_the_protocol_is_told_at_high_ratios(kind: str, ratio: float) -> None:
    """Most images then have all their captions wrong under either; but under one only they are all given one image."""
    assert measure(make_index(own(300, 5), ratio, kind, 1), own(300, 5), ratio).protocol == kind


def test_a_few_edited_captions_do_not_hide_the_protocol() -> None:
    index = make_index(own(300, 5), 0.4, "image", 1)
    index[[0, 5, 10, 700]] = (3, 4, 5, 6)
    assert measure(index, own(300, 5), 0.4).protocol == "image"
    index = make_index(own(300, 5), 0.4, "caption", 1)
    index[:10] = 299
    assert measure(index, own(300, 5), 0.4).protocol == "caption"


UNEVEN = np.array([0, 1, 0, 2, 1, 0])
"""Three captions of image 0, two of 1, one of 2, in mixed order."""


@pytest.mark.parametrize("kind", ["caption", "image"])
def test_images_of_different_numbers_of_captions(tmp_path: Path, kind: str) -> None:
    uneven = np.random.RandomState(0).permutation(np.repeat(np.arange(300), 1 + np.arange(300) % 5))
    index = make_index(uneven, 0.5, kind, 4)
    report = measure(index, uneven, 0.5)
    assert report.protocol == kind and report.measured_ratio == pytest.approx(0.5, abs=0.05)
    given = [set(index[uneven == image].tolist()) for image in range(300)]
    if kind == "image":
        assert sorted(image for (image,) in given) == list(range(300)), "a shuffle of images, each whole"
        assert share_moved_together(index, uneven) == 1.0
    else:
        assert sorted(index) == sorted(uneven) and share_moved_together(index, uneven) < 0.1
    assert is_shuffle(index, uneven)
    index[np.flatnonzero(index == 4)[0]] = 3
    assert not is_shuffle(index, uneven)
    np.save(tmp_path / "n.npy", index)
    assert read_index(tmp_path / "n.npy", uneven).index.tolist() == index.tolist()


def test_uneven_by_hand(tmp_path: Path) -> None:
    np.save(tmp_path / "n.npy", np.array([1, 2, 0]))
    index = read_index(tmp_path / "n.npy", UNEVEN).index
    assert index.tolist() == [1, 2, 1, 0, 2, 1]
    assert measure(index, UNEVEN, 0.0) == NoiseReport("image", 0.0, 1.0)
    # image 0 is split, image 1 moves whole, image 2 has one caption and does not count
    assert share_moved_together(np.array([0, 2, 1, 0, 2, 0]), UNEVEN) == 0.5
    assert measure(np.array([0, 1, 0, 1, 1, 0]), UNEVEN, 0.0) == NoiseReport("caption", 0.0, 1 / 6)
    np.save(tmp_path / "n.npy", np.arange(4) % 3)
    with pytest.raises(InputError, match=r"one a caption \(6\) or one an image \(3\)"):
        read_index(tmp_path / "n.npy", UNEVEN)
