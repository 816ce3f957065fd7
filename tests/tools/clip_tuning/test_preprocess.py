"""Prepared pictures against the library's own processor, the cache, the settings files, random changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("PIL")

from PIL import Image

from data_utils.pictures import Pictures, picture_files
from runtime.errors import InputError
from runtime.seed import generator
from tools.clip_tuning.augment import augment
from tools.clip_tuning.preprocess import FILE, NESTED_FILE, PreparedPictures, Preprocessing

SIZES = [(30, 50), (50, 30), (41, 41), (24, 24), (20, 33)]


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a picture (height, width, 3) with structure, uint8."""
    small = np.random.RandomState(seed).randint(0, 256, (7, 7, 3)).astype(np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def opened(tmp_path: Path) -> Pictures:
    """Pictures of several sizes."""
    for number, size in enumerate(SIZES):
        Image.fromarray(smooth(*size, seed=number)).save(tmp_path / f"{number}.png")
    return picture_files([tmp_path / f"{number}.png" for number in range(len(SIZES))])


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_librarys_processor(size: tuple[int, int], mode: str) -> None:
    module = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    pixels = smooth(*size)
    ours = Preprocessing(resize=24, crop=(22, 20), mode=mode)
    processor = module.CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 22, "width": 20}, resample={"bilinear": 2, "bicubic": 3}[mode]
    )
    theirs = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    got = ours.normalise(ours.prepare(pixels)[None])
    assert got.shape == theirs.shape == (1, 3, 22, 20)
    assert float((got - theirs).abs().max()) < 1.1 / 255 / min(ours.std)  # a grey level, from rounding


def test_one_colour_stays_and_the_middle_is_cut() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = (50, 100, 150)
    prepared = Preprocessing(resize=10, crop=(10, 10)).prepare(pixels)
    assert prepared.shape == (3, 10, 10) and prepared.dtype == torch.uint8
    assert (prepared == torch.tensor([50, 100, 150])[:, None, None]).all()


def test_saved_settings_are_read_again(tmp_path: Path) -> None:
    for number, settings in enumerate(
        (
            Preprocessing(resize=24, crop=(22, 20), mode="bilinear", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)),
            Preprocessing(resize=(20, 30)),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings.save(folder)
        assert Preprocessing.load(folder) == settings
        nested = {"image_processor": json.loads((folder / FILE).read_text())}
        (folder / NESTED_FILE).write_text(json.dumps(nested))
        (folder / FILE).unlink()
        assert Preprocessing.load(folder) == settings


def test_published_settings(tmp_path: Path) -> None:
    """Older folders give sizes as numbers and leave out what was not optional then."""
    (tmp_path / FILE).write_text(json.dumps({"size": 224, "crop_size": 224, "resample": 3, "do_normalize": False}))
    found = Preprocessing.load(tmp_path)
    assert (found.resize, found.crop, found.size, found.scale) == (224, (224, 224), (224, 224), 1 / 255)
    assert found.mean == (0.0, 0.0, 0.0) and found.std == (1.0, 1.0, 1.0)


BAD = {
    "no resizing": ({"do_resize": False}, "do_resize is off"),
    "larger crop": ({"size": 20, "crop_size": 24}, r"crop_size \(24, 24\) is larger than size 20"),
    "no crop, no size": ({"size": 20, "do_center_crop": False}, "size needs a height and a width"),
    "resampling": ({"size": 20, "crop_size": 20, "resample": 1}, "resample 1 is unknown; known: 2"),
    "no size": ({}, "no description of preprocessing"),
    "no object": ([], "no description of preprocessing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        Preprocessing.load(tmp_path)


def test_no_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no preprocessor_config\.json"):
        Preprocessing.load(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_batches_hold_the_asked_pictures(opened: Pictures, cache_bytes: int, workers: int) -> None:
    settings = Preprocessing(resize=16, crop=(16, 16))
    expected = torch.stack([settings.prepare(opened.pixels(number)) for number in range(len(opened))])
    prepared = PreparedPictures(opened, settings, cache_bytes=cache_bytes, workers=workers)
    parts = [np.array([3, 1, 1]), np.array([0, 3]), np.array([4, 2, 0, 4, 1])]
    for _ in range(2):
        found = list(prepared.batches(parts))
        assert len(found) == len(parts)
        for (numbers, pictures), part in zip(found, parts, strict=True):
            assert numbers.tolist() == part.tolist() and torch.equal(pictures, expected[part])


@pytest.mark.parametrize(("cache_bytes", "times"), [(2**20, 1), (0, 2)])
def test_kept_pictures_are_decoded_once(opened: Pictures, cache_bytes: int, times: int) -> None:
    decoded: list[int] = []

    class Counting(Pictures):
        def pixels(self, number: int) -> np.ndarray:
            decoded.append(number)
            return opened.pixels(number)

    counting = Counting([opened.name(k) for k in range(len(opened))], lambda number: b"")
    prepared = PreparedPictures(counting, Preprocessing(resize=16, crop=(16, 16)), cache_bytes=cache_bytes)
    for _ in range(2):
        prepared.batch(np.array([2, 0, 2]))
    assert sorted(decoded) == sorted([0, 2] * times)


# -- random changes ------------------------------------------------------------------------


def pictures(count: int = 6) -> Tensor:
    """Return (count, 3, 16, 16) normalised pictures."""
    settings = Preprocessing(resize=16, crop=(16, 16))
    return settings.normalise(torch.stack([settings.prepare(smooth(20, 20, seed=k)) for k in range(count)]))


def test_no_strength_changes_nothing() -> None:
    draw = generator(0, "test")
    state = draw.get_state()
    before = pictures()
    assert augment(before, 0.0, draw) is before and torch.equal(draw.get_state(), state)


def test_changes_are_seeded_and_differ_by_picture() -> None:
    before = pictures(1).expand(4, -1, -1, -1)
    one, same, other = (augment(before, 1.0, generator(seed, "test")) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == before.shape and torch.isfinite(one).all()
    assert all(float((one[0] - one[k]).abs().max()) > 0.1 for k in range(1, 4))


def test_weak_changes_are_small() -> None:
    before = pictures()
    weak, strong = (float((augment(before, s, generator(0, "t")) - before).abs().mean()) for s in (0.02, 1.0))
    assert 0 < weak < strong / 10


def test_a_picture_of_one_colour_changes_only_its_tint() -> None:
    before = torch.tensor([0.5, -1.0, 2.0])[None, :, None, None].expand(3, 3, 8, 8)
    after = augment(before, 1.0, generator(0, "test"))
    assert float(after.flatten(2).std(dim=2).max()) < 1e-5
    factor_and_tint = (after[:, :, 0, 0] - before[:, :, 0, 0]).abs()
    assert (factor_and_tint > 0).all() and (factor_and_tint <= 0.3 * 2.0 + 0.3 + 1e-5).all()
