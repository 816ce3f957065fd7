"""Pairs from files and the data folder, prepared pictures by number, random changes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from runtime.errors import InputError
from runtime.seed import generator
from tests.tools.clip_tuning.made_up import make_pictures
from tools.clip_tuning.pairs import PairsConfig, PreparedPictures, augment, open_pairs
from tools.picture_files import Pictures


def test_the_data_folder() -> None:
    pairs = open_pairs(PairsConfig(), "dev")
    assert pairs.num_images == 500 and len(pairs.captions) == 2500
    assert (np.bincount(pairs.image_of_caption) == 5).all()


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


@pytest.mark.parametrize(("kept_bytes", "workers"), [(0, 0), (0, 2), (2**20, 0), (2**20, 2)])
def test_batches_hold_the_asked_pictures_decoded_once_where_they_are_kept(
    kept_bytes: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.clip_tuning.pairs.KEPT_BYTES", kept_bytes)
    pictures = Numbered()
    prepared = PreparedPictures(
        pictures, lambda pixels: torch.from_numpy(pixels[:4, :4]).permute(2, 0, 1), 4, workers=workers
    )
    parts = [np.array([3, 1, 1]), np.array([0, 6]), np.array([4, 2, 4, 11])]
    for _ in range(2):
        found = list(prepared.batches(parts))
        assert len(found) == len(parts)
        for (numbers, batch), part in zip(found, parts, strict=True):
            assert numbers.tolist() == part.tolist() and batch.shape == (len(part), 3, 4, 4)
            assert batch.dtype == torch.uint8 and batch[:, 2, 3, 1].tolist() == part.tolist()
    if kept_bytes and not workers:
        assert sorted(pictures.decoded) == [0, 1, 2, 3, 4, 6, 11]


def test_changes_are_seeded_differ_by_picture_and_leave_one_colour_one_colour() -> None:
    small = torch.randn(1, 3, 4, 4, generator=generator(0, "pictures"))
    before = torch.nn.functional.interpolate(small, size=16, mode="bilinear").expand(4, -1, -1, -1)
    one, same, other = (augment(before, 1.0, generator(seed, "test")) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other) and one.shape == before.shape
    assert all(float((one[0] - one[k]).abs().max()) > 0.1 for k in range(1, 4))
    before = torch.tensor([0.5, -1.0, 2.0])[None, :, None, None].expand(3, 3, 8, 8)
    after = augment(before, 1.0, generator(0, "test"))
    assert float(after.flatten(2).std(dim=2).max()) < 1e-5
    change = (after - before).abs()
    assert (change > 0).all() and (change <= 0.3 * 2.0 + 0.3 + 1e-5).all()
