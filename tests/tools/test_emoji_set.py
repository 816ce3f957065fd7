"""The embedded emoji set: its shapes, its splits, its captions and what must not be in it."""

import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "data" / "emoji_precomp"
SPLITS = ("train", "dev", "test")
ARTISTS = {"noto", "noto-v1", "twemoji", "emojione", "fluent-emoji-flat"}
GROUPS = {
    "smileys-emotion",
    "people-body",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
    "symbols",
}
NEAR = 8  # grey levels
Record = dict[str, str]


def grey_distances(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean absolute difference of one grey image, shape (256,), to others, shape (n, 256), both uint8."""
    gaps = np.maximum(one, others) - np.minimum(one, others)
    return gaps.sum(axis=1, dtype=np.uint32) / one.size


@pytest.fixture(scope="module")
def records() -> dict[str, list[Record]]:
    """What each row of each split shows."""
    return json.loads((FOLDER / "pictures.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def greys() -> dict[str, np.ndarray]:
    """Grey images of each split, uint8 of shape (pictures, 256)."""
    with h5py.File(FOLDER / "thumbnails.h5") as file:
        return {split: file[split]["grey16"][:].reshape(-1, 256) for split in SPLITS}


def read_captions(split: str) -> list[list[str]]:
    """Captions of each picture of a split."""
    lines = (FOLDER / f"{split}_caps.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) % 5 == 0
    return [lines[i : i + 5] for i in range(0, len(lines), 5)]


def concepts(rows: list[Record]) -> list[str]:
    """Concepts of some rows."""
    return [row["concept"] for row in rows]


def test_split_sizes(records: dict[str, list[Record]]) -> None:
    assert set(records) == set(SPLITS)
    assert 5000 <= len(records["train"]) <= 7000
    assert len(records["dev"]) == 500
    assert len(records["test"]) == 1000


@pytest.mark.parametrize("split", SPLITS)
def test_features(split: str, records: dict[str, list[Record]]) -> None:
    with h5py.File(FOLDER / f"{split}_ims.h5") as file:
        stored, scales = file["features"][:], file["scales"][:]
    assert stored.dtype == np.int8
    assert scales.dtype == np.float32
    assert stored.shape == (len(records[split]), 36, 128)
    assert scales.shape == (128,)
    assert (scales > 0).all()
    with h5py.File(FOLDER / "train_ims.h5") as file:
        assert np.array_equal(scales, file["scales"][:])
    features = stored * scales
    # Train has a mean square of 1 by construction; dev and test come from the same pictures' world.
    assert np.square(features).mean() == pytest.approx(1.0, abs=0.01 if split == "train" else 0.1)
    assert (features.std(axis=1).mean(axis=1) > 0.1).all()  # the regions of every picture differ


def test_features_tell_concepts(records: dict[str, list[Record]]) -> None:
    """The nearest training picture of a test picture shows the same concept far more often than by chance."""
    means = {}
    for split in ("train", "test"):
        with h5py.File(FOLDER / f"{split}_ims.h5") as file:
            mean = (file["features"][:] * file["scales"][:]).mean(axis=1)
        means[split] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    nearest = (means["test"] @ means["train"].T).argmax(axis=1)
    train, test = (np.array(concepts(records[split])) for split in ("train", "test"))
    assert (train[nearest] == test).mean() > 0.2


@pytest.mark.parametrize("split", SPLITS)
def test_five_distinct_captions(split: str, records: dict[str, list[Record]]) -> None:
    captions = read_captions(split)
    assert len(captions) == len(records[split])
    for own, row in zip(captions, records[split], strict=True):
        assert len({caption.lower() for caption in own}) == 5, own
        assert row["label"] in own
        assert all(c.strip() == c and c.isascii() and any(map(str.isalpha, c)) for c in own), own


@pytest.mark.parametrize("split", ["dev", "test"])
def test_no_caption_of_two_pictures(split: str) -> None:
    shared = Counter(caption.lower() for own in read_captions(split) for caption in own)
    assert shared.most_common(1)[0][1] == 1, shared.most_common(5)


def test_held_out_artists(records: dict[str, list[Record]]) -> None:
    """One picture a concept, by an artist that training has not seen draw it, of a concept it has seen."""
    held = concepts(records["dev"]) + concepts(records["test"])
    assert len(set(held)) == len(held)
    drawn = {(row["concept"], row["artist"]) for row in records["train"]}
    assert len(drawn) == len(records["train"])
    known = set(concepts(records["train"]))
    for row in records["dev"] + records["test"]:
        assert (row["concept"], row["artist"]) not in drawn, row
        assert row["concept"] in known, row


@pytest.mark.parametrize("split", SPLITS)
def test_artists_balanced(split: str, records: dict[str, list[Record]]) -> None:
    counts = Counter(row["artist"] for row in records[split])
    assert set(counts) == ARTISTS
    assert min(counts.values()) >= len(records[split]) / 10


@pytest.mark.parametrize(("held", "other"), [("dev", "train"), ("test", "train"), ("dev", "test")])
def test_near_duplicates_never_straddle(
    held: str, other: str, greys: dict[str, np.ndarray], records: dict[str, list[Record]]
) -> None:
    for split in (held, other):
        assert len(greys[split]) == len(records[split])
    for i, one in enumerate(greys[held]):
        distances = grey_distances(one, greys[other])
        j = int(distances.argmin())
        assert distances[j] >= NEAR, (records[held][i], records[other][j])


@pytest.mark.parametrize("split", SPLITS)
def test_excluded_families(split: str, records: dict[str, list[Record]]) -> None:
    skin_tones, flag_letters = set(range(0x1F3FB, 0x1F400)), set(range(0x1F1E6, 0x1F200))
    flags = {0x1F3C1, 0x1F38C, 0x1F3F3, 0x1F3F4, 0x1F6A9}
    clock_faces = set(range(0x1F550, 0x1F568))
    keycaps = {0x20E3, 0x1F51F}
    letters_in_boxes = {
        *range(0x1F170, 0x1F19B),
        *range(0x1F201, 0x1F252),
        *range(0x1F520, 0x1F525),
        0x2139,
        0x24C2,
        0x3297,
        0x3299,
    }
    excluded = skin_tones | flag_letters | flags | clock_faces | keycaps | letters_in_boxes
    for row in records[split]:
        points = {int(part, 16) for part in row["concept"].split("-")}
        assert points.isdisjoint(excluded), row
        assert row["group"] in GROUPS, row
