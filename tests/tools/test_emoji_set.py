"""The embedded emoji set: its files are those that were built, and what its splits promise holds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tools.emoji_set.names import ARTISTS, NAMES

FOLDER = Path(__file__).parents[2] / "data" / "emoji_precomp"
SPLITS = ("train", "dev", "test")
NEAR = 8  # grey levels
SHA256 = {
    "dev_ims.h5": "11586d09d43300e2ff1ecd71b3a02154d32691ac654eddce29991a82eb7c0fd3",
    "test_ims.h5": "fabc1f35b53d5b3c87f6a832cd02d9bb06119b5856e7d0b22af1e50b18ff55b3",
    "thumbnails.h5": "b20812a920844153e32039a2f90a0a6ea0d0192740ba66f387b3beb46912a097",
    "train_ims.h5": "3620be72a8b807ec9789d9219e071f4d2dfa178d66cf61e70e86edab89348891",
    "dev_caps.txt": "16ef0ac25b731d3909fac78f7ba8e4211e882de63307a0476bbdae01f83708da",
    "test_caps.txt": "162686cf6950b5cc514ec5e6b8f90d41cb9f9a4cf21647c4c31d0f9284bd5f6d",
    "train_caps.txt": "e612198c95ba32ec2a5bf500cc7439aa9600e4f2bc8f92ddea105fde69a1f1ed",
    "pictures.json": "ccc29ff9838fbf4021883892d0568c457a310acd3122ba21c4dad62f2e781e64",
}


@pytest.mark.parametrize("name", SHA256)
def test_the_files_are_those_that_were_built(name: str) -> None:
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == SHA256[name]


def test_one_picture_a_concept_is_held_out_by_an_artist_that_training_has_not_seen_draw_it() -> None:
    records = json.loads((FOLDER / "pictures.json").read_text(encoding="utf-8"))
    held = records["dev"] + records["test"]
    assert [len(records[split]) for split in SPLITS] == [5006, 500, 1000]
    assert len({row["concept"] for row in held}) == len(held)
    drawn = {(row["concept"], row["artist"]) for row in records["train"]}
    known = {concept for concept, _ in drawn}
    assert all((row["concept"], row["artist"]) not in drawn and row["concept"] in known for row in held)
    captions = [(FOLDER / f"{split}_caps.txt").read_text(encoding="utf-8").splitlines() for split in SPLITS]
    assert [len(lines) for lines in captions] == [5 * len(records[split]) for split in SPLITS]
    assert all(len(set(lines[k : k + 5])) == 5 for lines in captions for k in range(0, len(lines), 5))


@pytest.mark.parametrize(("held", "other"), [("dev", "train"), ("test", "train"), ("dev", "test")])
def test_near_duplicates_never_straddle(held: str, other: str) -> None:
    with h5py.File(FOLDER / "thumbnails.h5") as file:
        one, many = (file[split]["grey16"][:].reshape(-1, 256).astype(np.float32) for split in (held, other))
    distances = torch.cdist(torch.from_numpy(one), torch.from_numpy(many), p=1)  # sums of bytes: exact
    assert float(distances.min()) >= NEAR * 256


def test_licences_name_every_package() -> None:
    blocks = (FOLDER / "LICENSES").read_text(encoding="utf-8").split("\n\n")
    for source in (*ARTISTS.values(), NAMES):
        (own,) = (block for block in blocks if block.startswith(f"{source.package} {source.version}\n"))
        assert "licence:  " in own and "author:   " in own
