"""Inverted lists: what they find, and that faiss may be missing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from runtime.errors import InputError
from tools.search import inverted_lists
from tools.search.inverted_lists import learn_lists

ROWS = (3 + np.random.default_rng(0).standard_normal((2000, 16))).astype(np.float32)


def blocks() -> Iterator[np.ndarray]:
    """Yield uneven blocks."""
    for start in range(0, 2000, 700):
        yield ROWS[start : start + 700]


def test_more_lists_find_more(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    truth = np.argsort(-(ROWS[:100] @ ROWS.T), axis=1)[:, :5]
    shares = []
    for looked_at in (1 / 45, 1.0):
        monkeypatch.setattr(inverted_lists, "LOOKED_AT", looked_at)
        told: list[int] = []
        lists = learn_lists(blocks, (2000, 16), purpose="tests need", advance=told.append)
        assert lists.shape == (2000, 16) and told == [700, 700, 600]
        found = lists.search(ROWS[:100], 100)
        shares.append(np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))
    assert shares[0] < shares[1] and shares[1] > 0.9


def test_faiss_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverted_lists, "faiss", None)
    with pytest.raises(InputError, match="^tests need faiss-cpu, which is not installed; run: python -m pip install"):
        learn_lists(blocks, (2000, 16), purpose="tests need")
