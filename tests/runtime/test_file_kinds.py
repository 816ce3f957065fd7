"""A file of another kind under the name of features, captions, a vocabulary is called what it is."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from data_utils.captions import read_captions
from data_utils.noise_index import read_index
from data_utils.regions import RegionFile
from runtime.checkpoint import load_checkpoint
from runtime.errors import InputError
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
