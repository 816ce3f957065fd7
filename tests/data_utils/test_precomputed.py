"""Splits and their batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data_utils import catalog
from data_utils.catalog import DataConfig, Protocol, locate, protocol, vocabulary_file
from data_utils.noise import NoiseConfig
from data_utils.precomputed import PrecomputedSplit, repeated_rows
from data_utils.regions import RegionFile
from models.matcher import MatcherConfig
from runtime.errors import InputError
from tests.tiny import make_tiny_data
from training.data import RunData, open_data
from vocab.vocabulary import Vocabulary


def open_split(root: Path, split: str = "train", name: str = "tiny_precomp") -> PrecomputedSplit:
    return PrecomputedSplit(root / "data" / name, split, Vocabulary.load(root / "vocab" / f"{name}_vocab.json"))


def open_all(root: Path, name: str = "tiny_precomp") -> RunData:
    data = DataConfig(data_name=name, data_path=str(root / "data"), vocab_path=str(root / "vocab"))
    return open_data(data, NoiseConfig(), MatcherConfig())


def test_a_batch(tiny_root: Path) -> None:
    split = open_split(tiny_root)
    features = np.load(tiny_root / "data" / "tiny_precomp" / "train_ims.npy")
    captions = (tiny_root / "data" / "tiny_precomp" / "train_caps.txt").read_text(encoding="utf-8").splitlines()
    numbers = torch.tensor([7, 0, 199, 3, 7])
    batch = split[numbers]
    assert len(split) == 200 and split.num_images == 40 and split.counts.captions_per_image == 5
    assert len(batch) == 5 and split.region_shape == (4, 12)
    assert batch.index.tolist() == numbers.tolist()
    assert batch.image_id.tolist() == [1, 0, 39, 0, 1]
    assert batch.regions.dtype == torch.float32 and batch.tokens.dtype == batch.lengths.dtype == torch.int64
    np.testing.assert_array_equal(batch.regions.numpy(), features[[1, 0, 39, 0, 1]])
    vocabulary = Vocabulary.load(tiny_root / "vocab" / "tiny_precomp_vocab.json")
    for row, length, number in zip(batch.tokens, batch.lengths, numbers, strict=True):
        expected = vocabulary.encode(captions[number])
        assert row[:length].tolist() == expected and not row[length:].any()
    assert batch.tokens.shape == (5, int(batch.lengths.max()))
    assert batch.lengths.min() < batch.lengths.max(), "the batch has padding"


def test_moving_keeps_the_lengths(tiny_root: Path) -> None:
    batch = open_split(tiny_root)[torch.arange(3)]
    moved = batch.to(torch.device("meta"))
    assert moved.lengths.device.type == "cpu"
    assert {t.device.type for t in (moved.regions, moved.tokens, moved.index, moved.image_id)} == {"meta"}


def test_a_noise_index_changes_images_only(tiny_root: Path) -> None:
    split = open_split(tiny_root)
    before = split[torch.arange(4)]
    index = split.image_of_caption.copy()
    index[:2] = (9, 11)
    split.set_images(index)
    after = split[torch.arange(4)]
    assert after.image_id.tolist() == [9, 11, 0, 0] and torch.equal(after.tokens, before.tokens)
    assert torch.equal(after.regions[2:], before.regions[2:])
    assert torch.equal(after.regions[:2], split.read_images(np.array([9, 11])))
    assert split.is_matched.tolist() == [False, False] + [True] * 198
    assert split.image_of_caption.tolist() == [k // 5 for k in range(200)]


def test_rows_stored_once_a_caption_give_the_same_pairs(tiny_root: Path, tmp_path: Path) -> None:
    once = open_split(tiny_root)
    again = open_split(make_tiny_data(tmp_path, repeat_rows=True))
    assert len(again.regions) == 200 and len(once.regions) == 40
    assert (again.num_images, again.counts.captions_per_image) == (40, 5)
    numbers = torch.tensor([0, 13, 199, 4, 5])
    one, other = once[numbers], again[numbers]
    for name in ("regions", "tokens", "lengths", "image_id"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(once.read_images(np.arange(40)), again.read_images(np.arange(40)))


def test_two_equal_images_at_the_start_are_not_taken_for_repeats(tmp_path: Path) -> None:
    root = make_tiny_data(tmp_path, captions_per_image=1)
    path = root / "data" / "tiny_precomp" / "train_ims.npy"
    features = np.load(path)
    features[1] = features[0]
    np.save(path, features)
    assert open_split(root).counts.captions_per_image == 1


def test_repeats_that_do_not_come_out_even_are_none(tmp_path: Path) -> None:
    """Two equal images at the start and at the end, and a number of images that two does not divide."""
    root = make_tiny_data(tmp_path, images={"train": 9, "dev": 4, "test": 5}, captions_per_image=1)
    path = root / "data" / "tiny_precomp" / "train_ims.npy"
    features = np.load(path)
    features[1], features[-1] = features[0], features[-2]
    np.save(path, features)
    assert repeated_rows(RegionFile(path)) == 1
    np.save(path, features[[0, 1, 2, 3, 4, 5, 7, 8]])
    assert repeated_rows(RegionFile(path)) == 2, "this is how repeats look"


@pytest.mark.parametrize("name", ["f30k_precomp", "coco_precomp"])
def test_the_first_dev_images_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert protocol(name).dev_images == 1000
    monkeypatch.setitem(catalog.PROTOCOLS, name, Protocol(dev_images=3))
    data = open_all(make_tiny_data(tmp_path, name), name)
    assert (data.dev.num_images, len(data.dev)) == (3, 15)
    assert (data.test.num_images, data.train.num_images) == (8, 40)
    assert data.dev.image_of_caption.tolist() == [k // 5 for k in range(15)]


def test_protocols() -> None:
    """The counts of the published splits, images and captions."""
    published = {
        "f30k_precomp": {"train": 29_000, "dev": 1_014, "test": 1_000},
        "coco_precomp": {"train": 113_287, "dev": 5_000, "test": 1_000, "testall": 5_000},
        "cc152k_precomp": {"train": 150_000, "dev": 1_000, "test": 1_000},
    }
    for name, images in published.items():
        rules = protocol(name)
        assert rules.images == images and rules.splits == tuple(images)
        assert rules.has_real_noise == (name == "cc152k_precomp")
        assert rules.captions_per_image == (1 if name == "cc152k_precomp" else 5)
        assert rules.dev_images == (None if name == "cc152k_precomp" else 1000)
        assert [rules.folds(split) for split in ("train", "dev", "test")] == [None] * 3
    assert protocol("coco_precomp").folds("testall") == 1000
    own = protocol("of_my_own")
    assert own == Protocol() and own.splits == ("train", "dev", "test")
    assert not own.has_real_noise and own.dev_images is None and own.captions_per_image is None


def test_real_noise_has_no_known_truth(tmp_path: Path) -> None:
    root = make_tiny_data(tmp_path, "cc152k_precomp", captions_per_image=1, tsv=True)
    assert not open_all(root, "cc152k_precomp").truth_is_known


def test_splits_must_agree(tmp_path: Path) -> None:
    root = make_tiny_data(tmp_path)
    path = root / "data" / "tiny_precomp" / "dev_ims.npy"
    np.save(path, np.load(path)[:, :, :11])
    with pytest.raises(InputError, match=r"dev_ims.npy.*\(4, 11\).*train_ims.npy.*\(4, 12\)"):
        open_all(root)


def test_places_that_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="looked for the folder .* and .*; set --data_path") as caught:
        locate(DataConfig(data_name="x_precomp"))
    assert str(tmp_path / "data" / "x_precomp") in str(caught.value)
    assert str(catalog.REPOSITORY / "data" / "x_precomp") in str(caught.value)
    (tmp_path / "data" / "x_precomp").mkdir(parents=True)
    assert locate(DataConfig(data_name="x_precomp")).resolve() == tmp_path / "data" / "x_precomp"
    assert vocabulary_file(DataConfig(data_name="x_precomp", vocab_path="v")) == Path("v/x_precomp_vocab.json")
