"""Pairs from CSV, JSON and the data folder, and the noise put into them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("PIL")

from data_utils.noise import NoiseConfig, make_index
from runtime.errors import InputError
from tests.tools.clip_tuning.made_up import make_pictures, write_csv, write_json
from tools.clip_tuning.pairs import Pairs, PairsConfig, inject_noise, open_pairs, read_pairs

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
    pairs = read_pairs(write_json(folder / "pairs.json", SCHEMAS[schema]))
    assert by_image(pairs) == EXPECTED
    assert pairs.image_of_caption.tolist() == [0, 0, 1, 1]


def test_csv_of_any_order_and_more_columns(folder: Path) -> None:
    text = '\ufeffcaption,split,image\nthree,x,b.png\none,x,a.png\n"four, ""more""",x,b.png\ntwo,x,a.png\n'
    (folder / "pairs.csv").write_text(text, encoding="utf-8")
    pairs = read_pairs(folder / "pairs.csv")
    assert by_image(pairs) == {"b.png": ["three", 'four, "more"'], "a.png": ["one", "two"]}
    assert pairs.image_of_caption.tolist() == [0, 0, 1, 1]  # images in the order of their first pair


def test_picture_path(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = write_csv(elsewhere / "pairs.csv", [("a.png", "one")])
    assert read_pairs(path, folder).num_images == 1
    with pytest.raises(InputError, match=r"1 of 1 pictures are missing, the first is .*elsewhere/a\.png"):
        read_pairs(path)


def test_the_data_folder() -> None:
    pairs = open_pairs(PairsConfig(), "dev")
    assert pairs.num_images == 500 and len(pairs.captions) == 2500
    assert (np.bincount(pairs.image_of_caption) == 5).all()


def test_noise_is_that_of_run_py(tmp_path: Path) -> None:
    pairs = open_pairs(PairsConfig(), "dev")
    index, report = inject_noise(pairs, NoiseConfig(noise_ratio=0.4), "emoji_precomp")
    np.testing.assert_array_equal(index, make_index(500, 5, 0.4, "caption", 123))
    assert report.protocol == "caption" and report.measured_ratio == pytest.approx(0.4, abs=0.01)
    np.save(tmp_path / "noise.npy", np.roll(np.arange(500), 1))
    index, report = inject_noise(pairs, NoiseConfig(noise_file=str(tmp_path / "noise.npy")), "emoji_precomp")
    assert report.protocol == "image" and (index != pairs.image_of_caption).all()


def test_noise_needs_equal_numbers_of_captions(folder: Path) -> None:
    rows = [("a.png", "one"), ("a.png", "two"), ("b.png", "three")]
    pairs = read_pairs(write_csv(folder / "pairs.csv", rows))
    index, report = inject_noise(pairs, NoiseConfig(), "own")
    assert index.tolist() == [0, 0, 1] and report.measured_ratio == 0
    with pytest.raises(InputError, match="--noise_ratio and --noise_file need .* from 1 to 2"):
        inject_noise(pairs, NoiseConfig(noise_ratio=0.5), "own")


def test_real_noise_takes_no_more(folder: Path) -> None:
    pairs = read_pairs(write_csv(folder / "pairs.csv", [("a.png", "one"), ("b.png", "two")]))
    with pytest.raises(InputError, match="real noise"):
        inject_noise(pairs, NoiseConfig(noise_ratio=0.5), "cc152k_precomp")


BAD_JSON = {
    "unequal lists": ({"image": ["a.png", "b.png"], "caption": [["x"]] * 3}, "has 2 entries and .* has 3"),
    "unequal flat": ({"image": ["a.png", "b.png"], "caption": ["x"] * 3}, "has 2 entries and .* has 3"),
    "no list": ({"image": "a.png", "caption": "x"}, "must be lists"),
    "no key": ({"picture": [], "caption": []}, "must be a list of objects"),
    "entry without key": ([{"image": "a.png"}], 'entry 0 lacks "image" or "caption"; it has: image'),
    "empty caption": ({"image": ["a.png"], "caption": [["x", " "]]}, "entry 0 .* empty caption"),
    "number": ({"image": ["a.png"], "caption": [7]}, "string or a list of strings, not int"),
    "no path": ({"image": [7], "caption": [["x"]]}, "is no path"),
    "nothing": ([], "holds no pair"),
    "missing": ({"image": ["a.png", "c.png"], "caption": [["x"]] * 2}, r"1 of 2 pictures are missing.*c\.png"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json(folder: Path, case: str) -> None:
    content, message = BAD_JSON[case]
    with pytest.raises(InputError, match=message):
        read_pairs(write_json(folder / "pairs.json", content))


BAD_FILES = {
    "a.csv": (b"picture,caption\na.png,x\n", "no column image"),
    "b.csv": (b"image,caption\na.png,x\na.png,\n", "line 3: image or caption is empty"),
    "c.csv": (b"image,caption\na.png\n", "line 2: image or caption is empty"),
    "d.csv": (b"image,caption\na.png,\xff\n", "not UTF-8"),
    "e.csv": (b"image,caption\n", "holds no pair"),
    "f.json": (b"{", "is no JSON"),
    "g.txt": (b"", "neither .csv nor .json"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(folder: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_pairs(folder / name)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path / "none.csv")


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
