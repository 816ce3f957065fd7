"""The builder of the emoji set: twins and splits, grey images, feature maps."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from data_utils.set_builder import cells
from data_utils.set_builder.drawings import grey_thumbnails
from data_utils.set_builder.splits import SplitRule, drop_twins, make_splits, near_pairs


class Picture(NamedTuple):
    """A drawing of a concept."""

    concept: int
    artist: str
    source: str


class Network:
    """Stands for Lite0: a picture's cells are its pixels' squares."""

    batches = 0

    def __init__(self, *settings: object) -> None:
        self.settings = settings

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        Network.batches += 1
        values = pixels.astype(np.float32).reshape(len(pixels), 6, 32, 6, 32, 3).transpose(0, 1, 3, 2, 4, 5)
        return values.reshape(len(pixels), 6, 6, -1)[..., :1280] / 128 - 1


def test_cells_of_other_pictures_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "Lite0", Network)
    pixels = np.random.RandomState(0).randint(0, 256, (20, 192, 192, 3)).astype(np.uint8)
    first = cells.compute_cells(pixels, tmp_path)
    second = cells.compute_cells(255 - pixels, tmp_path)
    assert first.shape == (20, 36, 1280) and first.dtype == np.float32
    assert np.array_equal(first, Network().maps(pixels).reshape(20, 36, 1280))
    assert np.array_equal(second, Network().maps(255 - pixels).reshape(20, 36, 1280))


def random_pictures(seed: int, concepts: int, artists: int) -> tuple[list[Picture], np.ndarray]:
    """Small pictures, some of them nearly or quite the same, and their grey images."""
    random = np.random.RandomState(seed)
    drawings = random.randint(0, 256, (concepts, 16, 16)).astype(np.uint8)
    pictures, greys = [], []
    for number in range(concepts):
        for artist in range(artists):
            shown = random.randint(0, 256, (16, 16)) if random.rand() < 0.7 else drawings[random.randint(concepts)]
            grey = np.clip(shown.astype(int) + random.randint(0, 2) * 3, 0, 255).astype(np.uint8)
            pictures.append(Picture(number, str(artist), grey.tobytes().hex()))
            greys.append(grey)
    return pictures, np.stack(greys)


@pytest.mark.parametrize("seed", range(3))
def test_near_pairs_are_those_of_the_slow_twin(seed: int) -> None:
    _, greys = random_pictures(seed, 20, 3)
    expected = [
        [i, j]
        for i in range(len(greys))
        for j in range(i + 1, len(greys))
        if np.abs(greys[i].astype(int) - greys[j].astype(int)).mean() < 8
    ]
    assert expected and sorted(near_pairs(greys, 8).tolist()) == expected


@pytest.mark.parametrize("seed", range(4))
def test_splits_hold_their_promises(seed: int) -> None:
    pictures, greys = random_pictures(seed, 40, 4)
    pairs = near_pairs(greys, 8)
    splits = make_splits(pictures, [f"c{k}" for k in range(40)], pairs, SplitRule(5, 10, "x"))
    side = {i: name for name, rows in splits.items() for i in rows}
    assert [len(splits[name]) for name in ("dev", "test")] == [5, 10]
    assert len(side) == sum(map(len, splits.values())) and not set(side) & drop_twins(pictures, pairs)
    for first, second in pairs.tolist():
        assert first not in side or second not in side or side[first] == side[second] == "train"
    train = {pictures[i].concept for i in splits["train"]}
    held = [pictures[i].concept for name in ("dev", "test") for i in splits[name]]
    assert len(set(held)) == len(held) and set(held) <= train
    with pytest.raises(ValueError, match="can be held out, 60 are needed"):
        make_splits(pictures, [f"c{k}" for k in range(40)], pairs, SplitRule(20, 40, "x"))


def test_twins_differ_by_less_than_the_limit() -> None:
    images = np.zeros((3, 16, 16), np.uint8)
    images[1] = 8
    images[2, 0] = 127  # 127 * 16 / 256 = 7.9375
    assert near_pairs(images, 8).tolist() == [[0, 2]]


def test_twins_of_what_is_held_out_leave_training() -> None:
    """Each picture of concept k has a twin among those of concept k + 1, so that none can be held out alone."""
    pictures = [Picture(k, str(a), f"{3 * k + a}") for k in range(4) for a in range(3)]
    pairs = np.array([(3 * k + a, 3 * (k + 1) + a) for k in (0, 2) for a in range(3)])
    splits = make_splits(pictures, list("abcd"), pairs, SplitRule(1, 1, "x"))
    held = splits["dev"] + splits["test"]
    gone = {j for pair in pairs.tolist() for i, j in (pair, pair[::-1]) if i in held}
    assert len(held) == len(gone) == 2 and set(splits["train"]) == set(range(12)) - gone - set(held)


def test_grey_images_are_means_of_squares() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (2, 192, 192, 3)).astype(np.uint8)
    grey = grey_thumbnails(pixels)
    luma = pixels.astype(float) @ [0.299, 0.587, 0.114]
    expected = luma.reshape(2, 16, 12, 16, 12).mean(axis=(2, 4))
    assert grey.dtype == np.uint8 and np.abs(grey - expected).max() <= 0.5 + 1e-9
