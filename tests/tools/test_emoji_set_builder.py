"""The builder of the emoji set from end to end on made-up packages, and its parts against slow twins."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.tools.conftest import ErrorOf
from tools.check.__main__ import main as check_main
from tools.emoji_set import __main__ as builder
from tools.emoji_set import features, pictures
from tools.emoji_set.names import ARTISTS, NAMES, Source
from tools.emoji_set.pictures import Picture, SplitRule, drop_twins, grey_thumbnails, make_splits, near_pairs
from vocab.build import main as vocab_main

SPLITS = ("train", "dev", "test")
THINGS = 12


class Network:
    """Stands for Lite0: a picture's cells are its pixels' squares."""

    batches = 0

    def __init__(self, *settings: object) -> None:
        self.settings = settings

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        Network.batches += 1
        values = pixels.astype(np.float32).reshape(len(pixels), 6, 32, 6, 32, 3).transpose(0, 1, 3, 2, 4, 5)
        return values.reshape(len(pixels), 6, 6, -1)[..., :1280] / 128 - 1


def draw(svg_string: str, width: int, height: int, **settings: object) -> bytes:
    """Stands for resvg: random blocks that the document decides on."""
    random = np.random.RandomState(int.from_bytes(hashlib.sha256(svg_string.encode()).digest()[:4], "little"))
    blocks = random.randint(0, 256, (height // 12, width // 12, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks.repeat(12, axis=0).repeat(12, axis=1)).save(buffer, "PNG")
    return buffer.getvalue()


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def unpacked(work: Path, source: Source) -> Path:
    """Where the builder finds a package that it has fetched before."""
    folder = work / f"{source.package.lstrip('@').replace('/', '-')}-{source.version}" / "package"
    write_json(folder / "package.json", {})
    return folder


def write_packages(work: Path) -> None:
    """Write THINGS things that every artist draws (one by names alone), and what is not to be in the set."""
    folder = unpacked(work, NAMES)
    codes = [f"1F4{k:02X}" for k in range(THINGS)]
    things = [
        {"hexcode": code, "label": f"Thing{k}", "tags": [f"tag{k}{x}" for x in "abcd"], "group": 7, "subgroup": 1}
        for k, code in enumerate(codes)
    ]
    clock = {"hexcode": "1F550", "label": "one o'clock", "group": 7, "subgroup": 1}
    flag = {"hexcode": "1F1E6", "label": "a flag", "group": 9, "subgroup": 1}
    entries = [{**entry, "order": order} for order, entry in enumerate([clock, *things, flag])]
    write_json(folder / "meta" / "groups.json", {"subgroups": {"1": "tool"}})
    write_json(folder / "en" / "data.json", entries)
    write_json(folder / "en-gb" / "data.json", [{**e, "label": f"British {e['label']}"} for e in entries])
    write_json(folder / "en" / "shortcodes" / "a.json", {code: f"code_{k}" for k, code in enumerate(codes)})
    for artist, source in ARTISTS.items():
        folder = unpacked(work, source)
        icons = {f"thing{k}": {"body": f"<path id='{artist} {k}'/>"} for k in range(THINGS)}
        write_json(folder / "icons.json", {"icons": icons, "width": 16, "height": 16})
        if artist != "emojione":
            write_json(folder / "chars.json", {code.lower(): f"thing{k}" for k, code in enumerate(codes)})


@pytest.fixture()
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with made-up packages, small splits, and quick stand-ins for resvg and the network."""
    write_packages(tmp_path / "work")
    monkeypatch.setattr(builder, "RULE", SplitRule(dev=3, test=4, seed="tiny"))
    monkeypatch.setattr(pictures, "resvg_py", SimpleNamespace(svg_to_bytes=draw))
    monkeypatch.setattr(features, "Lite0", Network)
    Network.batches = 0
    return tmp_path / "work"


def build(output: Path, work: Path) -> None:
    builder.main(["--output", str(output), "--work", str(work), "--dims", "5"])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_builds_a_set_that_can_be_used(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "data" / "emoji_precomp"
    build(output, work)
    expected = {f"{split}_{kind}" for split in SPLITS for kind in ("ims.h5", "caps.txt")}
    assert set(contents(output)) == expected | {"pictures.json", "thumbnails.h5"}
    records = json.loads((output / "pictures.json").read_text())
    assert {row["label"] for row in records["train"]} == {f"thing{k}" for k in range(THINGS)}
    train = {(r["concept"], r["artist"]) for r in records["train"]}
    for split, count in zip(SPLITS, (5 * THINGS - 7, 3, 4), strict=True):
        lines = (output / f"{split}_caps.txt").read_text().splitlines()
        assert len(records[split]) == count and len(lines) == 5 * count
        with h5py.File(output / f"{split}_ims.h5") as file:
            assert file["features"].shape == (count, 36, 5) and file["features"].dtype == np.int8
        for k, row in enumerate(records[split]):
            assert row["label"] == lines[5 * k] and len({*lines[5 * k : 5 * k + 5]}) == 5
            assert split == "train" or (row["concept"], row["artist"]) not in train
    place = ["--data_path", str(output.parent), "--data_name", output.name, "--vocab_path", str(tmp_path)]
    vocab_main([*place, "--min_count", "1"])
    check_main(place)
    assert capsys.readouterr().out.endswith("\nusable\n")
    again = tmp_path / "again"
    build(again, work)
    assert contents(again) == contents(output)


def test_goes_on_where_it_was_broken_off(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.convert.conversion.BLOCK_BYTES", 16 * 36 * 1280 * 4)
    real = Network.maps

    def breaks(self: Network, pixels: np.ndarray) -> np.ndarray:
        if Network.batches == 2:
            raise KeyboardInterrupt
        return real(self, pixels)

    monkeypatch.setattr(Network, "maps", breaks)
    output = tmp_path / "one"
    with pytest.raises(SystemExit):
        build(output, work)
    assert not contents(output)  # nothing has its name yet
    monkeypatch.setattr(Network, "maps", real)
    build(output, work)
    assert Network.batches == 4  # 60 pictures are four batches, two of them were there
    before = contents(output)

    def full_disk(*values: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(builder, "write_features", full_disk)
    with pytest.raises(SystemExit) as done:
        build(output, work)
    assert done.value.code == 2
    assert Network.batches == 4 and contents(output) == before  # half a set replaces nothing


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--output is missing"),
        (["--output", "o", "--dims", "0"], "--dims 0 is out of range"),
        (["--output", "file"], "--output file cannot be made"),
        (["--output", "o"], "cannot fetch emojibase-data@17.0.0 with npm"),
    ],
)
def test_bad_flags(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_of: ErrorOf
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(pictures, "resvg_py", SimpleNamespace(svg_to_bytes=draw))
    Path("file").touch()
    assert message in error_of(builder.main, flags)


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


def test_grey_images_are_means_of_squares() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (2, 192, 192, 3)).astype(np.uint8)
    grey = grey_thumbnails(pixels)
    luma = pixels.astype(float) @ [0.299, 0.587, 0.114]
    expected = luma.reshape(2, 16, 12, 16, 12).mean(axis=(2, 4))
    assert grey.dtype == np.uint8 and np.abs(grey - expected).max() <= 0.5 + 1e-9
