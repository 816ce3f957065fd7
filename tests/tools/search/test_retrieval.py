"""Search among vectors: exactly, and by inverted lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from tools.search import retrieval
from tools.search.retrieval import Lists, build_lists, search, search_exactly


def rows_and_queries(count: int = 3000, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows in clusters, all of them far from the origin, and queries near some of them."""
    random = np.random.default_rng(0)
    centres = 5 + random.standard_normal((40, size))
    rows = centres[random.integers(0, 40, count)] + 0.3 * random.standard_normal((count, size))
    queries = rows[random.integers(0, count, 30)] - 5 + 0.1 * random.standard_normal((30, size))
    return rows.astype(np.float32), queries.astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 5000])
@pytest.mark.parametrize("block", [11, 16_384])
def test_exact_search_as_its_twin(count: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "ROWS", block)
    monkeypatch.setattr(retrieval, "QUERIES", 4)
    rows, queries = rows_and_queries(300)
    found = search_exactly(rows, queries, count)
    products = queries.astype(np.float64) @ rows.astype(np.float64).T
    expected = np.argsort(-products, axis=1)[:, :count]
    assert found.numbers.shape == (30, min(count, 300))
    np.testing.assert_array_equal(found.numbers, expected)
    np.testing.assert_allclose(found.scores, np.take_along_axis(products, expected, 1), rtol=1e-4, atol=1e-3)


def test_lists_find_most_of_the_best_with_exact_scores(tmp_path: Path) -> None:
    rows, queries = rows_and_queries()
    told: list[int] = []
    build_lists(rows, tmp_path / "lists.faiss", told.append)
    assert sum(told) == len(rows) and [p.name for p in tmp_path.iterdir()] == ["lists.faiss"]
    found = search(rows, tmp_path / "lists.faiss", queries, 5)
    exact = search_exactly(rows, queries, 5)
    assert found.numbers.shape == (30, 5)
    shared = [len(set(a) & set(b)) / 5 for a, b in zip(found.numbers.tolist(), exact.numbers.tolist(), strict=True)]
    assert np.mean(shared) > 0.8
    here = found.numbers >= 0
    query, _ = np.nonzero(here)
    np.testing.assert_allclose(
        found.scores[here], np.einsum("nk,nk->n", rows[found.numbers[here]], queries[query]), rtol=1e-4
    )
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_lists_that_do_not_fit_or_are_damaged(tmp_path: Path) -> None:
    rows, _ = rows_and_queries(500)
    path = tmp_path / "lists.faiss"
    build_lists(rows, path)
    with pytest.raises(InputError, match="belongs to other rows; delete it"):
        Lists(path, rows[:-1])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read .* delete it"):
        Lists(path, rows)


def test_faiss_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(retrieval, "faiss", None)
    with pytest.raises(InputError, match="need.* faiss-cpu, which is not installed; run: python -m pip install"):
        build_lists(rows_and_queries(500)[0], tmp_path / "lists.faiss")
