"""The builder of the tiles set from end to end on a made-up game, and what it shares with the emoji set's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_utils.check import main as check_main
from data_utils.set_builder import assembling, cells
from data_utils.set_builder.drawings import grey_thumbnails
from data_utils.set_builder.splits import SplitRule, drop_twins, make_splits, near_pairs
from data_utils.tiles_builder import __main__ as builder
from data_utils.tiles_builder import package
from data_utils.tiles_builder.pictures import Picture
from tests.data_utils.tiny_game import THINGS, debian_package, write_game
from vocab.build import main as vocab_main

SPLITS = ("train", "dev", "test")


class Network:
    """Stands for Lite0: a picture's cells are its pixels' squares."""

    batches = 0

    def __init__(self, *settings: object) -> None:
        self.settings = settings

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        Network.batches += 1
        values = pixels.astype(np.float32).reshape(len(pixels), 6, 32, 6, 32, 3).transpose(0, 1, 3, 2, 4, 5)
        return values.reshape(len(pixels), 6, 6, -1)[..., :1280] / 128 - 1


@pytest.fixture()
def game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that the builder takes for the pinned one, small splits, and a quick network."""
    write_game(tmp_path / "files")
    archive = tmp_path / "game.deb"
    archive.write_bytes(debian_package(tmp_path / "files"))
    monkeypatch.setattr(package, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(builder, "RULE", SplitRule(dev=3, test=4, seed="tiny"))
    monkeypatch.setattr(cells, "Lite0", Network)
    Network.batches = 0
    return archive


def build(game: Path, output: Path, work: Path) -> None:
    flags = ["--output", str(output), "--work", str(work), "--package", str(game), "--dims", "5"]
    builder.main(flags)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_builds_a_set_that_can_be_used(
    game: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "data" / "tiles_precomp"
    build(game, output, tmp_path / "work")
    expected = {f"{split}_{kind}" for split in SPLITS for kind in ("ims.h5", "caps.txt")}
    assert set(contents(output)) == expected | {"pictures.json", "thumbnails.h5", "README.md", "LICENSES"}
    records = json.loads((output / "pictures.json").read_text())
    train = {(r["concept"], r["artist"]) for r in records["train"]}
    for split, count in zip(SPLITS, (5 * THINGS - 7, 3, 4), strict=True):
        rows = records[split]
        lines = (output / f"{split}_caps.txt").read_text().splitlines()
        assert len(rows) == count and len(lines) == 3 * count
        with h5py.File(output / f"{split}_ims.h5") as file:
            assert file["features"].shape == (count, 36, 5) and file["features"].dtype == np.int8
        for k, row in enumerate(rows):
            assert row["label"] == lines[3 * k] and len({*lines[3 * k : 3 * k + 3]}) == 3
            assert "everybody fears it" not in " ".join(lines[3 * k : 3 * k + 3])  # it tells no beast from another
            if split != "train":
                assert (row["concept"], row["artist"]) not in train
                assert row["concept"] in {concept for concept, _ in train}
    place = ["--data_path", str(output.parent), "--data_name", output.name, "--vocab_path", str(tmp_path)]
    vocab_main([*place, "--min_count", "1"])
    check_main(place)
    assert capsys.readouterr().out.endswith("\nusable\n")
    assert "CC-BY-SA-3.0" in (output / "LICENSES").read_text()
    assert f"{5 * THINGS - 7} training, 3 dev and 4 test pictures of {THINGS} concepts" in (
        (output / "README.md").read_text()
    )


def test_the_same_bytes_twice(game: Path, tmp_path: Path) -> None:
    build(game, tmp_path / "one", tmp_path / "work1")
    build(game, tmp_path / "two", tmp_path / "work2")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_goes_on_where_it_was_broken_off(game: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_utils.conversion.BLOCK_BYTES", 16 * 36 * 1280 * 4)
    real = Network.maps

    def breaks(self: Network, pixels: np.ndarray) -> np.ndarray:
        if Network.batches == 2:
            raise KeyboardInterrupt
        return real(self, pixels)

    monkeypatch.setattr(Network, "maps", breaks)
    output, work = tmp_path / "one", tmp_path / "work"
    with pytest.raises(SystemExit):
        build(game, output, work)
    assert not list(output.glob("*_ims.h5")) and not list(output.glob("*.txt"))  # nothing has its name yet
    monkeypatch.setattr(Network, "maps", real)
    build(game, output, work)
    assert Network.batches == 4  # 60 pictures are four batches, two of them were there
    build(game, output, work)
    assert Network.batches == 4
    build(game, tmp_path / "two", tmp_path / "work2")
    assert contents(output) == contents(tmp_path / "two")


def test_cells_of_other_pictures_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "Lite0", Network)
    pixels = np.random.RandomState(0).randint(0, 256, (20, 192, 192, 3)).astype(np.uint8)
    first = cells.compute_cells(pixels, tmp_path)
    second = cells.compute_cells(255 - pixels, tmp_path)
    assert first.shape == (20, 36, 1280) and first.dtype == np.float32
    assert np.array_equal(first, Network().maps(pixels).reshape(20, 36, 1280))
    assert np.array_equal(second, Network().maps(255 - pixels).reshape(20, 36, 1280))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--output is missing"),
        (["--output", "o", "--dims", "0"], "--dims 0 is out of range"),
        (["--output", "o", "--package", "absent.deb"], "--package absent.deb cannot be read"),
        (["--output", "file", "--package", "absent.deb"], "--output file cannot be made"),
    ],
)
def test_bad_flags(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as done:
        builder.main(flags)
    assert done.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


# -- what all builders share -----------------------------------------------------------------------------------------


def random_pictures(seed: int, concepts: int, artists: int) -> tuple[list[Picture], np.ndarray]:
    """Small pictures, some of them nearly or quite the same, and their grey images."""
    random = np.random.RandomState(seed)
    drawings = random.randint(0, 256, (concepts, 16, 16)).astype(np.uint8)
    pictures, greys = [], []
    for number in range(concepts):
        for artist in range(artists):
            shown = random.randint(0, 256, (16, 16)) if random.rand() < 0.7 else drawings[random.randint(concepts)]
            grey = np.clip(shown.astype(int) + random.randint(0, 2) * 3, 0, 255).astype(np.uint8)
            pictures.append(Picture(number, str(artist), grey[..., None], grey[..., None]))
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
    blank = np.zeros((1, 1, 3), np.uint8)
    pictures = [Picture(k, str(a), blank + 3 * k + a, blank + 3 * k + a) for k in range(4) for a in range(3)]
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


def test_nothing_is_replaced_by_half_a_set(game: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, work = tmp_path / "one", tmp_path / "work"
    build(game, output, work)
    before = contents(output)

    def full_disk(*values: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(assembling.storing, "write_features", full_disk)
    with pytest.raises(SystemExit) as done:
        build(game, output, work)
    assert done.value.code == 2
    assert contents(output) == before
