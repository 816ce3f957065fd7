"""Files: called what they are, walked through safely, written whole, and one writer a folder."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from data_utils.captions import read_captions
from data_utils.noise import read_index
from data_utils.regions import RegionFile
from runtime import files
from runtime.checkpoint import load_checkpoint
from runtime.errors import InputError
from runtime.files import LOCK, FolderLock, array_file, check_plain, parse_json
from tools.convert.bottom_up import BottomUpFile
from tools.extract.listing import read_text
from tools.filter.files import open_embeddings
from vocab import word_vectors
from vocab.vocabulary import Vocabulary


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def hdf5(buffer: io.BytesIO) -> None:
    with h5py.File(buffer, "w") as file:
        file["features"] = ARRAY


ARRAY = np.ones((2, 3, 4), np.float32)
CONTENTS = {
    "a git-lfs pointer, .* git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a file of torch.save; .* numpy.save": saved(lambda file: torch.save(torch.ones(2, 3, 4), file)),
    "a file of torch.save;": saved(
        lambda file: torch.save(torch.ones(2, 3, 4), file, _use_new_zipfile_serialization=False)
    ),
    "an archive": saved(lambda file: np.savez(file, ARRAY)),
    "a web page, .* download it again": b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>",
    "an HDF5 file": saved(hdf5),
    "an npy file": saved(lambda file: np.save(file, ARRAY)),
}
READERS: dict[str, Callable[[Path], object]] = {
    "train_ims.npy": RegionFile,
    "train_ims.h5": RegionFile,
    "noise.npy": lambda path: read_index(path, np.arange(2)),
    "train_caps.txt": lambda path: read_captions(path.parent, "train"),
    "train_caps.tsv": lambda path: read_captions(path.parent, "train"),
    "captions.json": read_text,
    "features.tsv": BottomUpFile,
    "own_vocab.json": Vocabulary.load,
    "glove.txt": lambda path: word_vectors.load(path, Vocabulary(["<pad>", "<start>", "<end>", "<unk>"]), 3),
}
UNFETCHED: dict[str, Callable[[Path], object]] = {
    "best.pth.tar": load_checkpoint,
    "images.safetensors": lambda path: open_embeddings(str(path)),
}
"""Readers of files that may lie in a git-lfs repository or come from the net, too."""
OWN = {"an HDF5 file": "train_ims.h5", "an npy file": "train_ims.npy"}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("name", READERS)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(CONTENTS[kind])
    if name == OWN.get(kind):
        assert RegionFile(tmp_path / name).shape == (2, 3, 4)
    elif not (name == "noise.npy" and kind == "an npy file"):
        with pytest.raises(InputError, match=f"{name} is {kind}"):
            READERS[name](tmp_path / name)


@pytest.mark.parametrize("kind", ["a git-lfs pointer, .* git lfs pull", "a web page, .* download it again"])
@pytest.mark.parametrize("name", UNFETCHED)
def test_a_file_that_was_not_fetched_is_called_so(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(CONTENTS[kind])
    with pytest.raises(InputError, match=f"{name} is {kind}"):
        UNFETCHED[name](tmp_path / name)


def test_plain_values() -> None:
    check_plain({"a": [1, (2.5, None, True), {"b": "ä"}], 3: -(2**999)})
    deep: Any = 1
    for _ in range(64):
        deep = [deep]
    check_plain(deep)
    options = (argparse.Namespace(**{"\ud800": 1}), argparse.Namespace(a=argparse.Namespace(b="\udfff")))
    for value in (*options, [deep], {"a": deep}, "\ud800", {"\udfff": 1}, [2**1000], (-(10**400),)):
        with pytest.raises(ValueError, match="it "):
            check_plain(value)


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"a":' * 70 + "1" + "}" * 70, '"\\ud800"', "9" * 400, "9" * 5000, "{", ""]
)
def test_json_that_cannot_be_walked_through(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        parse_json(text.encode())
    assert parse_json(b'\xef\xbb\xbf{"a": [1, "\\ud83d\\ude00"]}') == {"a": [1, "\U0001f600"]}


def test_arrays_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, one = tmp_path / "s.npz", np.random.RandomState(0).rand(300, 7).astype(np.float32)
    with array_file(path) as write, array_file(None) as write_nothing:
        for each in (write, write_nothing):
            each("A", one)
            each("mean", one[::-1, ::2])  # not contiguous
        assert not path.exists()
    with np.load(path, allow_pickle=False) as content:
        assert set(content) == {"A", "mean"} and content["A"].dtype == np.float32
        assert np.array_equal(content["A"], one) and np.array_equal(content["mean"], one[::-1, ::2])
    written = path.read_bytes()
    with pytest.raises(RuntimeError, match="mine"), array_file(path) as write:
        write("A", np.zeros(3))
        raise RuntimeError("mine")

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="s.npz cannot be written: disk full"), array_file(path) as write:
        write("A", np.zeros(3))
    with pytest.raises(InputError, match="s.npz cannot be written"), array_file(tmp_path / "no" / "s.npz"):
        pass
    assert path.read_bytes() == written and [p.name for p in tmp_path.iterdir()] == ["s.npz"]


def test_a_lock_that_is_a_link_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept", encoding="utf-8")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="lock cannot be written"):
        FolderLock(tmp_path)
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "kept"
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    with pytest.raises(InputError, match="lock cannot be written"):
        FolderLock(tmp_path)


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    program = (
        "import sys; from pathlib import Path; from runtime.files import FolderLock; FolderLock(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    other = subprocess.run(command, capture_output=True, text=True)
    assert f"being written by process {os.getpid()}; wait for it, or end it" in other.stderr
    held.release()
    held.release()
    assert not list(tmp_path.iterdir())
    assert subprocess.run(command).returncode == 0, "and what a process leaves that ends without releasing is no lock"
    FolderLock(tmp_path).release()
    assert not list(tmp_path.iterdir())
