"""Cosines of paired embeddings: their slow twin, chunks, extreme lengths, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from runtime.errors import InputError
from tests import reference
from tools.filter import filtering
from tools.filter.filtering import pair_similarity


def draw_embeddings(size: int = 23, width: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Draw paired embeddings of many lengths."""
    random = np.random.default_rng(0)
    return random.standard_normal((size, width)) * 10, random.standard_normal((size, width)) * random.random((size, 1))


@pytest.mark.parametrize("chunk", [1, 21, 2**20])
def test_cosines_are_their_twin(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtering, "ROW_CHUNK", chunk)
    images, captions = draw_embeddings()
    twin = reference.pair_similarity(images, captions)
    np.testing.assert_allclose(pair_similarity(images, captions), twin, rtol=0, atol=1e-14)
    tensors = torch.from_numpy(images).requires_grad_(), torch.from_numpy(captions)
    assert (pair_similarity(*tensors) == pair_similarity(images, captions)).all()
    single = pair_similarity(images.astype(np.float32), torch.from_numpy(captions).float())
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, twin, rtol=0, atol=1e-6)


def test_cosines_of_parallel_vectors_are_within_one() -> None:
    images, _ = draw_embeddings(2000)
    found = pair_similarity(images, 3 * images)
    assert found.max() <= 1.0 and found.min() > 1 - 1e-12
    assert pair_similarity(images, -images).min() >= -1.0


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_lengths_do_not_matter_however_extreme(scale: float) -> None:
    images, captions = draw_embeddings()
    np.testing.assert_allclose(pair_similarity(images * scale, captions), pair_similarity(images, captions), atol=1e-12)


@pytest.mark.parametrize("chunk", [7, 2**20])
@pytest.mark.parametrize("side", [0, 1])
def test_bad_rows_are_named(side: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtering, "ROW_CHUNK", chunk)
    name = ("image", "caption")[side]
    for value, message in ((0.0, "is zero"), (np.nan, "NaN"), (np.inf, "infinity")):
        pair = draw_embeddings()
        pair[side][[11, 17]] = value
        with pytest.raises(InputError, match=f"{name} embedding 11 .*{message}"):
            pair_similarity(*pair)
