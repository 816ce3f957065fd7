"""Pairs from files and the data folder, the noise put into them, prepared pictures by number, random changes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("PIL")

from data_utils.noise import NoiseConfig, make_index
from runtime.errors import InputError
from runtime.seed import generator
from tests.tools.clip_tuning.made_up import make_pictures, write_csv, write_json
from tools.clip_tuning.pairs import (
    Pairs,
    PairsConfig,
    PreparedPictures,
    augment,
    inject_noise,
    open_pairs,
    read_pairs,
)
from tools.picture_files import Pictures

EXPECTED = {"a.png": ["one", "two"], "b.png": ["three", "four"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a.png and b.png."""
    for name, kind in (("a", 0), ("b", 1)):
        make_pictures(tmp_path, np.array([[kind] * 4]), name)
        (tmp_path / f"{name}_0.png").rename(tmp_path / f"{name}.png")
    return tmp_path


def by_image(pairs: Pairs) -> dict[str, list[str]]:
    """Return each picture's captions by its file's name."""
    found: dict[str, list[str]] = {Path(pairs.pictures.name(k)).name: [] for k in range(pairs.num_images)}
    for image, caption in zip(pairs.image_of_caption, pairs.captions, strict=True):
        found[Path(pairs.pictures.name(image)).name].append(caption)
    return found


SCHEMAS = {
    "objects": [{"image": i, "caption": c} for i, own in EXPECTED.items() for c in own],
    "objects of lists": [{"image": i, "caption": own} for i, own in EXPECTED.items()],
    "lists of lists": {"image": list(EXPECTED), "caption": list(EXPECTED.values())},
    "flat lists": {"image": list(EXPECTED), "caption": [c for own in EXPECTED.values() for c in own]},
    "repeated images": {"image": ["a.png", "a.png", "b.png", "b.png"], "caption": ["one", "two", "three", "four"]},
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_schema_means_the_same(folder: Path, schema: str) -> None:
    pairs = read_pairs(write_json(folder / "pairs.json", SCHEMAS[schema]), "dev")
    assert by_image(pairs) == EXPECTED
    assert pairs.image_of_caption.tolist() == [0, 0, 1, 1]


def test_csv_of_any_order_and_more_columns_and_splits(folder: Path) -> None:
    lines = ["caption,split,note,image", "three,train,x,b.png", "one,train,y,a.png", '"four, ""more""",train,z,b.png']
    text = "\ufeff" + "\n".join([*lines, "two,train,x,a.png", "other,val,,a.png"])
    (folder / "pairs.csv").write_text(text, encoding="utf-8")
    pairs = read_pairs(folder / "pairs.csv", "train")
    assert by_image(pairs) == {"b.png": ["three", 'four, "more"'], "a.png": ["one", "two"]}
    assert pairs.image_of_caption.tolist() == [0, 0, 1, 1]  # images in the order of their first pair
    assert by_image(read_pairs(folder / "pairs.csv", "dev")) == {"a.png": ["other"]}


def test_picture_path(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = write_csv(elsewhere / "pairs.csv", [("a.png", "one")])
    assert read_pairs(path, "train", folder).num_images == 1
    with pytest.raises(InputError, match=r"1 of 1 pictures are missing, the first is .*elsewhere/a\.png"):
        read_pairs(path, "train")


def test_the_data_folder() -> None:
    pairs = open_pairs(PairsConfig(), "dev")
    assert pairs.num_images == 500 and len(pairs.captions) == 2500
    assert (np.bincount(pairs.image_of_caption) == 5).all()


def test_noise_is_that_of_run_py(tmp_path: Path) -> None:
    pairs = open_pairs(PairsConfig(), "dev")
    index, report = inject_noise(pairs, NoiseConfig(noise_ratio=0.4), "emoji_precomp")
    np.testing.assert_array_equal(index, make_index(np.repeat(np.arange(500), 5), 0.4, "caption", 123))
    assert report.protocol == "caption" and report.measured_ratio == pytest.approx(0.4, abs=0.01)
    np.save(tmp_path / "noise.npy", np.roll(np.arange(500), 1))
    index, report = inject_noise(pairs, NoiseConfig(noise_file=str(tmp_path / "noise.npy")), "emoji_precomp")
    assert report.protocol == "image" and (index != pairs.image_of_caption).all()


def test_noise_of_images_with_different_numbers_of_captions(folder: Path, tmp_path: Path) -> None:
    rows = [("a.png", "one"), ("a.png", "two"), ("b.png", "three")]
    pairs = read_pairs(write_csv(folder / "pairs.csv", rows), "train")
    index, report = inject_noise(pairs, NoiseConfig(), "own")
    assert index.tolist() == [0, 0, 1] and report.measured_ratio == 0
    np.save(tmp_path / "noise.npy", np.array([1, 0]))
    index, report = inject_noise(pairs, NoiseConfig(noise_file=str(tmp_path / "noise.npy")), "own")
    assert index.tolist() == [1, 1, 0] and report.measured_ratio == 1


def test_real_noise_takes_no_more(folder: Path) -> None:
    pairs = read_pairs(write_csv(folder / "pairs.csv", [("a.png", "one"), ("b.png", "two")]), "train")
    with pytest.raises(InputError, match="real noise"):
        inject_noise(pairs, NoiseConfig(noise_ratio=0.5), "cc152k_precomp")


BAD = {
    "unequal.json": ({"image": ["a.png", "b.png"], "caption": [["x"]] * 3}, "has 3 entries of captions for 2 images"),
    "flat.json": ({"image": ["a.png", "b.png"], "caption": ["x"] * 3}, "has 3 entries of captions for 2 images"),
    "no_list.json": ({"image": "a.png", "caption": [7]}, "is not of a known shape"),
    "no_key.json": ([{"image": "a.png"}], "is not of a known shape"),
    "empty.json": ({"image": ["a.png"], "caption": [["x", " "]]}, "has an empty caption"),
    "number.json": ({"image": ["a.png"], "caption": [7]}, "is not of a known shape"),
    "no_path.json": ({"image": [7], "caption": [["x"]]}, "must be texts"),
    "nothing.json": ([], "has no picture of split train; it has: none at all"),
    "missing.json": ({"image": ["a.png", "c.png"], "caption": [["x"]] * 2}, r"1 of 2 pictures are missing.*c\.png"),
    "broken.json": (b"{", "is no JSON"),
    "empty.csv": (b"image,caption\na.png,x\na.png,\n", "line 3: picture a.png has an empty caption"),
    "short.csv": (b"image,caption\na.png\n", "line 2 has 1 fields, its first line names 2"),
    "latin.csv": (b"image,caption\na.png,\xff\n", "not UTF-8"),
    "header.csv": (b"image,caption\n", "has no picture of split train"),
    "other.bin": (b"", "has the suffix '.bin'; known: .json, .csv"),
    "none.csv": (None, "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_pairs(folder: Path, name: str) -> None:
    content, message = BAD[name]
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    elif content is not None:
        write_json(folder / name, content)
    with pytest.raises(InputError, match=message):
        read_pairs(folder / name, "train")


def test_all_splits_or_none() -> None:
    with pytest.raises(InputError, match="--test_pairs missing"):
        PairsConfig(train_pairs="a.csv", dev_pairs="b.csv")
    assert PairsConfig(test_pairs="b.csv").file_of("test") == "b.csv"


def test_captions_that_do_not_fit_the_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    make_pictures(folder, np.zeros((2, 4), dtype=int), "p")
    files = [(folder / f"p_{k}.png").read_bytes() for k in range(2)]
    with h5py.File(folder / "thumbnails.h5", "w") as file:
        file["dev/bytes"] = np.frombuffer(b"".join(files), np.uint8)
        file["dev/offsets"] = np.cumsum([0, *map(len, files)])
    (folder / "dev_caps.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(InputError, match="3 captions cannot be shared evenly by 2 pictures"):
        open_pairs(PairsConfig(data_name="own", data_path=str(tmp_path)), "dev")
    (folder / "dev_caps.txt").unlink()
    (folder / "dev_caps.tsv").write_text("x\tone\ny\ttwo\nx\tthree\n")
    pairs = open_pairs(PairsConfig(data_name="own", data_path=str(tmp_path)), "dev")
    assert pairs.captions == ["one", "two", "three"] and pairs.image_of_caption.tolist() == [0, 1, 0]
    (folder / "dev_caps.tsv").write_text("x\tone\nx\ttwo\nx\tthree\n")
    with pytest.raises(InputError, match="dev_caps.tsv holds 1 different image ids for 2 pictures"):
        open_pairs(PairsConfig(data_name="own", data_path=str(tmp_path)), "dev")


# -- prepared pictures ----------------------------------------------------------------------------------------------


class Numbered(Pictures):
    """Twelve pictures of one colour each, their number; remembers which were decoded."""

    def __init__(self) -> None:
        super().__init__([str(number) for number in range(12)], lambda number: b"")
        self.decoded: list[int] = []

    def pixels(self, number: int) -> np.ndarray:
        self.decoded.append(number)
        return np.full((5, 7, 3), number, np.uint8)


def prepared_pictures(cache_bytes: int, workers: int = 0) -> tuple[Numbered, PreparedPictures]:
    """Return pictures, and what cuts 4 x 4 pixels out of them."""
    pictures = Numbered()

    def prepare(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(pixels[:4, :4]).permute(2, 0, 1)

    return pictures, PreparedPictures(pictures, prepare, 4, cache_bytes=cache_bytes, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("cache_bytes", "times"), [(0, 2), (2**20, 1)])
def test_batches_hold_the_asked_pictures_decoded_once_where_they_are_kept(
    cache_bytes: int, times: int, workers: int
) -> None:
    pictures, prepared = prepared_pictures(cache_bytes, workers)
    parts = [np.array([3, 1, 1]), np.array([0, 6]), np.array([4, 2, 4, 11])]
    for _ in range(2):
        found = list(prepared.batches(parts))
        assert len(found) == len(parts)
        for (numbers, batch), part in zip(found, parts, strict=True):
            assert numbers.tolist() == part.tolist() and batch.shape == (len(part), 3, 4, 4)
            assert batch.dtype == torch.uint8 and batch[:, 2, 3, 1].tolist() == part.tolist()
    assert sorted(pictures.decoded) == sorted([0, 1, 2, 3, 4, 6, 11] * times)


def pictures(count: int = 6) -> Tensor:
    """Return (count, 3, 16, 16) smooth pictures of several colours."""
    small = torch.randn(count, 3, 4, 4, generator=generator(0, "pictures"))
    return torch.nn.functional.interpolate(small, size=16, mode="bilinear", align_corners=False)


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
