"""Checkpoints: whole or not at all, and nothing in them is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime import files
from runtime.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from runtime.errors import InputError
from runtime.files import write_atomically, write_json

CONTENT: dict[str, Any] = {
    "epoch": 3,
    "config": {
        "matcher": {"dropout": 0.4, "img_dim": None, "list": [1, "a", True]},
        "shape": {"vocabulary_size": 20, "num_regions": 4, "region_dim": 7},
        **{name: {} for name in ("data", "training")},
    },
    "vocabulary_digest": "abc",
    "networks": [{"w": torch.arange(6.0).reshape(2, 3)}, {"w": torch.zeros(2, 3)}],
}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "c.pth.tar"
    save_checkpoint(path, CONTENT)
    loaded = load_checkpoint(path)
    assert loaded["format"] == FORMAT == 1
    assert {k: loaded[k] for k in ("epoch", "config", "vocabulary_digest")} == {
        k: CONTENT[k] for k in ("epoch", "config", "vocabulary_digest")
    }
    for own, given in zip(loaded["networks"], CONTENT["networks"], strict=True):
        assert torch.equal(own["w"], given["w"])
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth.tar"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pth.tar"
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="c.pth.tar cannot be written: disk full"):
        save_checkpoint(path, {**CONTENT, "epoch": 4})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth.tar"]
    assert load_checkpoint(path)["epoch"] == 3


def test_the_file_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    events: list[str] = []
    monkeypatch.setattr(files.os, "fsync", lambda fd: events.append(f"sync, named {path.exists()}"))
    write_atomically(path, b"1")
    save_checkpoint(tmp_path / "c.pth.tar", CONTENT)
    assert events == ["sync, named False", "sync, named True"]


def test_a_part_left_by_a_crash_is_not_taken_for_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.pth.tar"
    save_checkpoint(tmp_path / "c.pth.tar.part", CONTENT)
    with pytest.raises(InputError, match="no checkpoint at"):
        load_checkpoint(path)
    save_checkpoint(path, CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth.tar"]


def test_json_is_for_people(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1.5, None]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [1.5, None]} and text.count("\n") > 3 and text.endswith("\n")


@pytest.mark.parametrize("content", [[1, 2], {"model": [{}]}, torch.zeros(3), CONTENT])
def test_other_content_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "c.pth.tar"
    torch.save(content, path)
    with pytest.raises(InputError, match="not a checkpoint of this suite"):
        load_checkpoint(path)


def test_another_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.pth.tar"
    torch.save({**CONTENT, "format": 99}, path)
    with pytest.raises(InputError, match="format 99.*format 1"):
        load_checkpoint(path)


def test_a_folder_or_nothing_is_no_checkpoint(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.pth.tar"):
        with pytest.raises(InputError, match="no checkpoint at"):
            load_checkpoint(path)
