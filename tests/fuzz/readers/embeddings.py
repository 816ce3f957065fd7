"""Readers of stored embeddings, similarities and truths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from tests.fuzz.readers.data import hdf5_bytes, npy_bytes
from tests.fuzz.trial import Prepared, Reader
from tools.filter.__main__ import CleanConfig, pair_similarities
from tools.filter.files import Stored, open_embeddings, read_truth
from tools.filter.filtering import EmbeddingPairs

ROWS = np.random.RandomState(1).randn(5, 4).astype(np.float32)
COSINES = np.array([0.5, -0.25, 0.75, 0.125, 1.0])
TRUTH = np.array([1, 0, 1, 1, 1], dtype=np.uint8)


def _embeddings(path: Path) -> None:
    opened: Stored = open_embeddings(str(path))
    opened[0 : len(opened)]
    EmbeddingPairs.open(str(path), str(path)).similarity()


def _vectors(path: Path) -> None:
    pair_similarities(CleanConfig(similarities=str(path), output="x"), None)


def _truth(path: Path) -> None:
    read_truth(str(path), len(TRUTH))


def _safetensors(**arrays: np.ndarray) -> bytes:
    return save({name: torch.from_numpy(array) for name, array in arrays.items()})


def _text(values: np.ndarray) -> bytes:
    return "".join(f"{value!r}\n" for value in values.tolist()).encode()


def _prepared(samples: list[bytes], read: Callable[[Path], object]) -> Callable[[Path], Prepared]:
    return lambda folder: Prepared(samples, read)


READERS = [
    Reader(
        "embeddings_npy",
        "rows.npy",
        "npy",
        _prepared([npy_bytes(ROWS), npy_bytes(np.asfortranarray(ROWS)), npy_bytes(ROWS.astype("f2"))], _embeddings),
    ),
    Reader(
        "embeddings_hdf5",
        "rows.h5",
        "hdf5",
        _prepared(
            [
                hdf5_bytes(rows=ROWS, lengths=TRUTH),
                hdf5_bytes(**{"a/b": {"data": ROWS, "chunks": (2, 4), "compression": "gzip"}}),
            ],
            _embeddings,
        ),
    ),
    Reader(
        "embeddings_safetensors",
        "rows.safetensors",
        "safetensors",
        _prepared([_safetensors(rows=ROWS, lengths=TRUTH), _safetensors(rows=ROWS.astype("f8"))], _embeddings),
    ),
    Reader(
        "similarities_npy",
        "cosines.npy",
        "npy",
        _prepared([npy_bytes(COSINES), npy_bytes(COSINES.astype("f2"))], _vectors),
    ),
    Reader("similarities_hdf5", "cosines.h5", "hdf5", _prepared([hdf5_bytes(cosines=COSINES)], _vectors)),
    Reader(
        "similarities_safetensors",
        "cosines.safetensors",
        "safetensors",
        _prepared([_safetensors(cosines=COSINES)], _vectors),
    ),
    Reader(
        "similarities_text",
        "cosines.txt",
        "text",
        _prepared([_text(COSINES), b"similarity\r\n0.5\r\n-0.25\r\n"], _vectors),
    ),
    Reader(
        "similarities_csv",
        "cosines.csv",
        "text",
        _prepared([b"similarity\n0.5\n-0.25\n1\n", b"0.5\n0.25\n\n"], _vectors),
    ),
    Reader(
        "truth_text",
        "truth.csv",
        "text",
        _prepared([b"1\n0\n1\n1\n1\n", b"is_matched\ntrue\nfalse\nTRUE\n1\n0\n"], _truth),
    ),
    Reader(
        "truth_npy",
        "truth.npy",
        "npy",
        _prepared([npy_bytes(TRUTH), npy_bytes(TRUTH == 1), npy_bytes(TRUTH.astype("f4"))], _truth),
    ),
]
