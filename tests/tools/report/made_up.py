"""Runs for the report: a small one with pictures, and folders that look like runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import run
from tests.tiny import tiny_flags

Image = pytest.importorskip("PIL.Image")


def with_pictures(root: Path, target: Path) -> Path:
    """Copy a tiny data root and give its images pictures; return the copy."""
    shutil.copytree(root, target)
    folder = target / "data" / "tiny_precomp"
    for split in ("train", "dev", "test"):
        count = len(np.load(folder / f"{split}_ims.npy", mmap_mode="r"))
        (folder / split).mkdir()
        for k in range(count):
            Image.new("RGB", (40, 30), (5 * k % 256, 90, 160)).save(folder / split / f"{k}.png")
        (folder / f"{split}_images.txt").write_text(
            "".join(f"{split}/{k}.png\n" for k in range(count)), encoding="utf-8"
        )
    return target


def train(root: Path, output: Path, *flags: str) -> Path:
    """Train a small run; return its folder."""
    before = set(output.iterdir()) if output.exists() else set()
    run.main(tiny_flags(root, output, "--num_epochs", "1", *flags))
    (folder,) = set(output.iterdir()) - before
    return folder


def copied(folder: Path, target: Path, *without: str) -> Path:
    """Copy a run's folder, less some of its files and folders."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*without))
    return target


def edit_config(folder: Path, section: str, **values: object) -> None:
    """Change settings in a run's config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config[section] |= values
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
