"""Pictures from thumbnail files and from picture files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from runtime.errors import InputError
from tools import picture_files as pictures
from tools.picture_files import Pictures, picture_files, thumbnails

Image = pytest.importorskip("PIL.Image")

EMBEDDED = Path(__file__).resolve().parents[2] / "data" / "emoji_precomp" / "thumbnails.h5"
COLOURS = ((255, 0, 0), (0, 128, 0), (10, 20, 250))


def png(pixels: np.ndarray) -> bytes:
    """Encode without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def blocks() -> list[np.ndarray]:
    """Return pictures of several sizes, each of one colour."""
    return [np.full((4 + k, 7, 3), colour, dtype=np.uint8) for k, colour in enumerate(COLOURS)]


def write(path: Path, *, cut: int = 0, dtype: type = np.int64) -> Path:
    """Write `blocks()` as the train split of a thumbnail file, `cut` bytes too few."""
    files = [png(block) for block in blocks()]
    with h5py.File(path, "w") as file:
        group = file.create_group("train")
        content = np.frombuffer(b"".join(files), np.uint8)
        group["bytes"] = content[: len(content) - cut]
        group["offsets"] = np.cumsum([0, *map(len, files)]).astype(dtype)
    return path


def test_thumbnails_and_files_by_number(tmp_path: Path) -> None:
    opened = thumbnails(write(tmp_path / "t.h5"), "train")
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, block in zip(paths, blocks(), strict=True):
        path.write_bytes(png(block))
    files = picture_files([paths[2], paths[0], paths[2]])
    assert len(opened) == len(files) == 3 and "train 2" in opened.name(2) and files.name(1) == str(paths[0])
    for number in (2, 0, 1, 1):
        np.testing.assert_array_equal(opened.pixels(number), blocks()[number])
        np.testing.assert_array_equal(files.pixels(number), blocks()[(2, 0, 2)[number]])


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    for pixels in (np.full((3, 3), 77, np.uint8), np.full((3, 3, 4), 77, np.uint8)):
        (tmp_path / "x").write_bytes(png(pixels))
        got = picture_files([tmp_path / "x"]).pixels(0)
        assert got.shape == (3, 3, 3) and got.dtype == np.uint8 and (got == 77).all()


def test_the_embedded_set() -> None:
    counts = {split: len(thumbnails(EMBEDDED, split)) for split in ("train", "dev", "test")}
    assert counts == {"train": 5006, "dev": 500, "test": 1000}
    opened = thumbnails(EMBEDDED, "dev")
    assert {opened.pixels(number).shape for number in (0, 250, 499)} == {(72, 72, 3)}


@pytest.mark.parametrize("content", [b"", b"no picture at all", png(blocks()[0])[:-30]])
def test_missing_files_are_counted_and_a_broken_one_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"2 of 3 pictures are missing, the first is .*b\.png"):
        picture_files([path, tmp_path / "b.png", tmp_path / "c.png"])
    with pytest.raises(InputError, match=r"broken\.png cannot be read: .*; replace it"):
        picture_files([path]).pixels(0)


def turned(file: h5py.File) -> None:
    file["train/offsets"][1:3] = file["train/offsets"][1:3][::-1]


@pytest.mark.parametrize(
    ("breaks", "split", "told"),
    [
        (lambda path: path.unlink(), "train", "is not there"),
        (lambda path: path.write_text("no HDF5"), "train", "t.h5 is not an HDF5 file"),
        (lambda path: None, "dev", "no pictures of split 'dev'; it has: train"),
        (lambda path: h5py.File(path, "r+").pop("train/offsets"), "train", "no file of thumbnails"),
        (lambda path: write(path, cut=5), "train", "offsets of split 'train' do not fit"),
        (lambda path: write(path, dtype=np.float32), "train", "offsets of split 'train' do not fit"),
        (lambda path: turned(h5py.File(path, "r+")), "train", "offsets of split 'train' do not fit"),
    ],
)
def test_files_that_are_no_thumbnails(tmp_path: Path, breaks: Callable[[Path], object], split: str, told: str) -> None:
    breaks(write(tmp_path / "t.h5"))
    with pytest.raises(InputError, match=told):
        thumbnails(tmp_path / "t.h5", split)


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "Image", None)
    with pytest.raises(InputError, match=r"pip install -r requirements-clip\.txt"):
        Pictures(["a"], lambda number: b"")
