"""Pictures from thumbnail files and from picture files."""

from __future__ import annotations

import io
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


def test_thumbnails_by_number(tmp_path: Path) -> None:
    opened = thumbnails(write(tmp_path / "t.h5"), "train")
    assert len(opened) == 3
    for number in (2, 0, 1, 1):
        np.testing.assert_array_equal(opened.pixels(number), blocks()[number])
    assert "train 2" in opened.name(2)


def test_files_by_number(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, block in zip(paths, blocks(), strict=True):
        path.write_bytes(png(block))
    opened = picture_files([paths[2], paths[0], paths[2]])
    np.testing.assert_array_equal(opened.pixels(0), blocks()[2])
    np.testing.assert_array_equal(opened.pixels(1), blocks()[0])
    assert len(opened) == 3 and opened.name(1) == str(paths[0])


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    grey, alpha = np.full((3, 3), 77, np.uint8), np.full((3, 3, 4), 9, np.uint8)
    for name, pixels, value in (("grey", grey, 77), ("alpha", alpha, 9)):
        (tmp_path / name).write_bytes(png(pixels))
        got = picture_files([tmp_path / name]).pixels(0)
        assert got.shape == (3, 3, 3) and got.dtype == np.uint8 and (got == value).all()


def test_the_embedded_set() -> None:
    counts = {split: len(thumbnails(EMBEDDED, split)) for split in ("train", "dev", "test")}
    assert counts == {"train": 5006, "dev": 500, "test": 1000}
    opened = thumbnails(EMBEDDED, "dev")
    assert {opened.pixels(number).shape for number in (0, 250, 499)} == {(72, 72, 3)}


def test_missing_files_are_counted(tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(png(blocks()[0]))
    with pytest.raises(InputError, match=r"2 of 3 pictures are missing, the first is .*b\.png"):
        picture_files([there, tmp_path / "b.png", tmp_path / "c.png"])


@pytest.mark.parametrize("content", [b"", b"no picture at all", png(blocks()[0])[:-30]])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png cannot be read: .*; replace it"):
        picture_files([path]).pixels(0)


def test_no_thumbnail_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        thumbnails(tmp_path / "none.h5", "train")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InputError, match="text.h5 is not an HDF5 file"):
        thumbnails(tmp_path / "text.h5", "train")
    with pytest.raises(InputError, match="no pictures of split 'dev'; it has: train"):
        thumbnails(write(tmp_path / "t.h5"), "dev")


def test_a_group_without_its_parts(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_group("train")["bytes"] = np.zeros(3, np.uint8)
    with pytest.raises(InputError, match="no file of thumbnails"):
        thumbnails(tmp_path / "t.h5", "train")


def test_offsets_must_fit(tmp_path: Path) -> None:
    for settings in ({"cut": 5}, {"dtype": np.float32}):
        with pytest.raises(InputError, match="offsets of split 'train' do not fit"):
            thumbnails(write(tmp_path / "t.h5", **settings), "train")
    path = write(tmp_path / "t.h5")
    with h5py.File(path, "r+") as file:
        file["train/offsets"][1:3] = file["train/offsets"][1:3][::-1]
    with pytest.raises(InputError, match="offsets of split 'train' do not fit"):
        thumbnails(path, "train")


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "Image", None)
    with pytest.raises(InputError, match=r"pip install -r requirements-clip\.txt"):
        Pictures(["a"], lambda number: b"")
