"""A gallery's index on disk: kept, gone on with, stale, damaged, shared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from data_utils.precomputed import PrecomputedSplit
from models.matcher import Matcher
from runtime.errors import InputError
from tests.models.splits import small_matcher, small_split
from tools.search import index_folder
from tools.search.index_folder import ABOUT, ESTIMATE, KEYS, LISTS, IndexFolder, fill, identity
from tools.search.scores import KeyedMatcher, fit_networks, image_keys

CPU = torch.device("cpu")


class Case:
    """A split, a network and a file that stands for its checkpoint."""

    def __init__(self, folder: Path, name: str = "VSE") -> None:
        self.split: PrecomputedSplit = small_split(folder / "data")
        self.matcher: Matcher = small_matcher(self.split, name)
        self.checkpoint, self.index, self.said = folder / "c.pth.tar", folder / "index", list[str]()
        self.checkpoint.write_bytes(b"one")

    def open(self) -> IndexFolder:
        self.said.clear()
        return IndexFolder(self.index, identity(self.checkpoint, self.split), self.said.append)

    def images(self) -> tuple[np.ndarray, list[int]]:
        """Return the images' keys and how many rows were told to be done."""
        told: list[int] = []
        index = self.open()
        networks = index.networks([self.matcher], self.split, CPU)
        return np.array(index.images(networks, self.split, CPU, told.append).keys), told


def test_keys_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    networks = fit_networks([case.matcher], case.split, CPU)
    expected = np.concatenate([block for _, block in image_keys(networks, case.split, CPU)])
    keys, told = case.images()
    np.testing.assert_array_equal(keys, expected)
    assert sum(told) == case.split.num_images and not case.said
    monkeypatch.setattr(index_folder, "image_keys", None)  # a second computation would fail
    again, told = case.images()
    np.testing.assert_array_equal(again, expected)
    assert not told and not case.said
    assert sorted(p.name for p in case.index.iterdir()) == ["estimate.npz", "images"]


@pytest.mark.parametrize("name", ["SGR", "SCAN_t2i"])
def test_the_estimate_is_kept_with_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path, name)
    first = case.open().networks([case.matcher], case.split, CPU)[0].keys
    stored = (case.index / "estimate.npz").read_bytes()
    (case.index / "estimate.npz").write_bytes(stored[: len(stored) // 2])  # cut short: made anew
    case.open().networks([case.matcher], case.split, CPU)
    monkeypatch.setattr(index_folder, "fit_networks", None)
    second = case.open().networks([case.matcher], case.split, CPU)[0].keys
    assert first.slope is not None and second.slope is not None and not second.are_exact
    torch.testing.assert_close(first.slope, second.slope, rtol=0, atol=0)
    torch.testing.assert_close(first.offset, second.offset, rtol=0, atol=0)


@pytest.mark.parametrize("what", ["checkpoint", "features", "captions"])
def test_a_stale_index_is_noticed_and_built_anew(what: str, tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.images()
    folder = case.split.regions.path.parent
    if what == "checkpoint":
        case.checkpoint.write_bytes(b"another")
        case.matcher = small_matcher(case.split, "VSE", seed=9)
    elif what == "features":
        np.save(case.split.regions.path, np.load(case.split.regions.path) + 1)
        os.utime(case.split.regions.path, ns=(1, 1))
        case.split.regions = type(case.split.regions)(folder, "dev")
    else:
        (folder / "dev_caps.txt").write_text("a red dog\n" * 35, encoding="utf-8")
    keys, told = case.images()
    assert sum(told) == 7 and len(case.said) == 1 and f"stale ({what} changed since" in case.said[0]
    networks = fit_networks([case.matcher], case.split, CPU)
    np.testing.assert_array_equal(keys, np.concatenate([block for _, block in image_keys(networks, case.split, CPU)]))


def test_a_build_that_was_broken_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.ensemble.IMAGE_BLOCK", 2)
    monkeypatch.setattr(index_folder, "SAVED_EVERY", 2)
    case = Case(tmp_path)
    expected, _ = case.images()
    case.index.rename(tmp_path / "whole")

    def broken(networks: list[KeyedMatcher], *rest: object) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for numbers, block in image_keys(networks, *rest):  # type: ignore[arg-type]
            if numbers[0] >= 4:
                raise KeyboardInterrupt
            yield numbers, block

    with monkeypatch.context() as patch:
        patch.setattr(index_folder, "image_keys", broken)
        with pytest.raises(KeyboardInterrupt):
            case.images()
    assert json.loads((case.index / "images" / ABOUT).read_text())["rows_done"] == 4
    starts: list[int] = []

    def watched(networks: list[KeyedMatcher], split: PrecomputedSplit, device: torch.device, start: int):  # type: ignore[no-untyped-def]
        starts.append(start)
        return image_keys(networks, split, device, start)

    monkeypatch.setattr(index_folder, "image_keys", watched)
    keys, told = case.images()
    np.testing.assert_array_equal(keys, expected)
    assert starts == [4] and told[0] == 4 and sum(told) == 7 and "goes on after 4 of 7 rows" in case.said[0]


@pytest.mark.parametrize("damage", ["keys", "about"])
def test_a_damaged_index_is_built_anew(damage: str, tmp_path: Path) -> None:
    case = Case(tmp_path)
    expected, _ = case.images()
    path = case.index / "images" / (KEYS if damage == "keys" else ABOUT)
    path.write_bytes(path.read_bytes()[:40])
    keys, told = case.images()
    np.testing.assert_array_equal(keys, expected)
    assert sum(told) == 7 and bool(case.said) == (damage == "keys")
    (case.index / ESTIMATE).write_bytes(b"no")
    np.testing.assert_array_equal(case.images()[0], expected)


def test_many_rows_get_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_folder, "EXACT_ROWS", 5)
    case = Case(tmp_path)
    keys, _ = case.images()
    assert (case.index / "images" / LISTS).is_file() and "inverted lists of 7 rows" in case.said[0]
    (case.index / "images" / LISTS).unlink()
    assert not case.images()[1] and (case.index / "images" / LISTS).is_file(), "lists alone are built again"
    index = case.open()
    side = index.images(index.networks([case.matcher], case.split, CPU), case.split, CPU, lambda rows: None)
    assert side.search(keys, 1).scores[:, 0] == pytest.approx((keys @ keys.T).max(axis=1), rel=1e-4)


def test_a_diverged_network(tmp_path: Path) -> None:
    blocks = iter([(np.arange(2), np.full((2, 3), np.nan, dtype=np.float32))])
    with pytest.raises(InputError, match="NaN or infinity .* diverged"):
        fill(tmp_path / KEYS, 2, 0, blocks, lambda rows: None)
    assert not (tmp_path / KEYS).exists()


def test_folders_that_are_no_index(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.index.mkdir()
    (case.index / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="holds thesis.tex, which is no part of an index"):
        case.open()
    case.index = tmp_path / "c.pth.tar"
    with pytest.raises(InputError, match="is a file; name a folder"):
        case.open()
