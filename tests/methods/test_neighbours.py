"""Nearest rows: against a slow twin, and where rows tie, vanish, overflow or run out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.blocks import exact_neighbours, neighbours
from methods.blocks.exact_neighbours import ROUNDING, TOGETHER, tile_edge
from methods.blocks.neighbours import nearest
from models import inverted_lists
from runtime.errors import InputError


def twin(
    rows: Tensor, count: int, group: list[int] | None, queries: Tensor | None, query_group: list[int] | None
) -> tuple[list[list[int]], list[list[float]]]:
    """Look at every row for every query, one at a time, in float64; equal cosines (to 1e-9) by their number."""

    def unit(x: Tensor) -> list[list[float]]:
        vectors = []
        for row in x.double().tolist():
            peak = max((abs(v) for v in row), default=0.0) or 1.0
            length = math.sqrt(sum((v / peak) ** 2 for v in row)) or 1.0
            vectors.append([v / peak / length for v in row])
        return vectors

    of = unit(rows)
    asked = of if queries is None else unit(queries)
    numbers, cosines = [], []
    for q, query in enumerate(asked):
        found = []
        for n, row in enumerate(of):
            if queries is None and n == q:
                continue
            if group is not None and (query_group if queries is not None else group) is not None:
                own = group[q] if queries is None else query_group[q]  # type: ignore[index]
                if group[n] == own:
                    continue
            cosine = sum(a * b for a, b in zip(query, row, strict=True))
            found.append((-round(cosine, 9), n))
        found.sort()
        numbers.append([n for _, n in found[:count]] + [-1] * (count - len(found)))
        cosines.append([-c for c, _ in found[:count]] + [0.0] * (count - len(found)))
    return numbers, cosines


def check(
    rows: Tensor,
    count: int,
    group: Tensor | None = None,
    queries: Tensor | None = None,
    query_group: Tensor | None = None,
) -> None:
    """Compare with the twin: same cosines at every place, same numbers where no two cosines are nearly equal."""
    found = nearest(rows, count, group=group, queries=queries, query_group=query_group)
    asked = rows if queries is None else queries
    as_list = [None if g is None else g.tolist() for g in (group, query_group)]
    numbers, cosines = twin(rows, count, as_list[0], queries, as_list[1])
    assert found.numbers.shape == found.cosines.shape == (len(asked), count)
    assert found.numbers.dtype == torch.long and found.cosines.dtype == torch.float32
    np.testing.assert_allclose(found.cosines.numpy(), np.array(cosines).reshape(len(asked), count), atol=1e-6)
    assert found.numbers.tolist() == numbers


@pytest.fixture(params=[16, 32, 4096])
def edge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles that small cases fill once or many times."""
    monkeypatch.setattr(exact_neighbours, "EDGE", request.param)
    return int(request.param)


def drawn(count: int, size: int, seed: int = 0) -> Tensor:
    """Rows of very different lengths about a few centres."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, size, generator=random)
    rows = centres[torch.randint(0, 5, (count,), generator=random)] + 0.5 * torch.randn(count, size, generator=random)
    return rows * 10 ** torch.randn(count, 1, generator=random)


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 100])
def test_as_its_twin(rows: int, edge: int) -> None:
    group = torch.randint(0, max(1, rows // 4), (rows,), generator=torch.Generator().manual_seed(1))
    for count in (1, 7, 200):
        check(drawn(rows, 6), count)
        check(drawn(rows, 6), count, group)


@pytest.mark.parametrize("queries", [1, 16, 50])
def test_other_queries_as_their_twin(queries: int, edge: int) -> None:
    rows, asked = drawn(90, 5), drawn(queries, 5, seed=1)
    group = torch.arange(90) // 3
    check(rows, 4, queries=asked)
    check(rows, 4, group, asked, torch.arange(queries) * 7 % 40)  # some groups that no row has
    check(rows, 4, group, asked)


def test_most_tiles_are_looked_at_by_their_maxima(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_neighbours, "EDGE", 64)
    monkeypatch.setattr(exact_neighbours, "TOGETHER", 4)
    ways: list[str] = []
    for way in ("take", "take_all"):
        monkeypatch.setattr(exact_neighbours.Best, way, noting(ways, way, getattr(exact_neighbours.Best, way)))
    check(drawn(800, 8), 3, torch.arange(800) * 37 % 160)
    assert ways.count("take") > ways.count("take_all") > 0


def noting(calls: list[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its calls are put down by name."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return function(*args, **kwargs)

    return noted


def test_filling_up_a_tile_adds_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """All cosines are negative: the zeros that fill up the last tile, 15 of them, would be the best."""
    monkeypatch.setattr(exact_neighbours, "EDGE", 4096)
    random = torch.Generator().manual_seed(0)
    towards = torch.tensor([2.0, 0, 0, 0])
    rows = towards + 0.3 * torch.randn(4096 + 4081, 4, generator=random)
    check(rows, 3, queries=-towards + 0.3 * torch.randn(5, 4, generator=random))


integers = st.lists(st.integers(-2, 2), min_size=0, max_size=150)


@settings(max_examples=150, deadline=None)
@given(integers, st.integers(1, 3), st.integers(1, 12), st.integers(1, 40), st.booleans())
def test_small_integers_tie_everywhere(
    values: list[int], size: int, count: int, groups: int, has_own_queries: bool
) -> None:
    """Whole numbers in one to three dimensions: zero rows, equal rows, opposite rows; equal ones by their numbers.

    Different rows may have cosines that only rounding tells apart: either may come first.
    """
    rows = torch.tensor(values[: len(values) // size * size], dtype=torch.float32).view(-1, size)
    group = torch.arange(len(rows)) * 13 % groups
    asked, own = (rows.flip(0)[:9], group[:9]) if has_own_queries else (rows, group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_neighbours, "EDGE", 16)
        if has_own_queries:
            found = nearest(rows, count, group=group, queries=asked, query_group=own)
        else:
            found = nearest(rows, count, group=group)
    every, cosines = twin(rows, len(rows) + count, group.tolist(), asked if has_own_queries else None, own.tolist())
    np.testing.assert_allclose(
        found.cosines.numpy(), np.array([c[:count] for c in cosines]).reshape(len(asked), count), atol=1e-6
    )
    for q, numbers in enumerate(found.numbers.tolist()):
        here = [n for n in numbers if n >= 0]
        true = dict(zip(every[q], cosines[q], strict=True))
        assert len(set(here)) == len(here) == min(count, sum(n >= 0 for n in every[q]))
        np.testing.assert_allclose([true[n] for n in here], cosines[q][: len(here)], atol=1e-6)
        for place, n in enumerate(here):
            before = [k for k in true if 0 <= k < n and torch.equal(rows[k], rows[n])]
            assert set(before) <= set(here[:place]), "of equal rows the lowest number first"


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_all_rows_equal(value: float, edge: int) -> None:
    check(torch.full((70, 9), value), 5)
    check(torch.full((70, 9), value), 5, torch.arange(70) // 4)
    check(torch.full((70, 9), value), 5, torch.arange(70) % 3)


def test_many_copies_of_a_few_rows(edge: int) -> None:
    rows = drawn(4, 7)[torch.arange(120) * 5 % 4]
    check(rows, 6)
    check(rows, 6, torch.arange(120) // 30)


def test_all_rows_in_one_group_leave_nothing(edge: int) -> None:
    found = nearest(drawn(50, 4), 3, group=torch.zeros(50, dtype=torch.long))
    assert (found.numbers == -1).all() and (found.cosines == 0).all()


def test_one_row_and_none() -> None:
    assert nearest(torch.ones(1, 3), 2).numbers.tolist() == [[-1, -1]]
    assert nearest(torch.ones(0, 3), 2).numbers.shape == (0, 2)
    assert nearest(torch.ones(4, 3), 2, queries=torch.ones(0, 3)).numbers.shape == (0, 2)
    assert nearest(torch.ones(0, 3), 2, queries=torch.ones(2, 3)).numbers.tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e30, 3e38])
def test_lengths_that_cannot_be_squared(scale: float) -> None:
    rows = torch.nn.functional.normalize(drawn(40, 5), dim=1)
    found, expected = nearest(rows * scale, 5), nearest(rows, 5)
    if scale > 1e-38:  # below, float32 itself has few digits left
        assert torch.equal(found.numbers, expected.numbers)
    assert found.cosines.isfinite().all() and (found.cosines[:, 0] > 0.5).all()


def test_other_layouts_and_types() -> None:
    wide = drawn(60, 12)
    strided, copied = wide[::2, 1::2], wide[::2, 1::2].contiguous()
    assert torch.equal(nearest(strided, 4).cosines, nearest(copied, 4).cosines)
    assert torch.equal(nearest(copied.t(), 3).numbers, nearest(copied.t().contiguous(), 3).numbers)
    half = (copied / copied.norm(dim=1, keepdim=True)).half()
    assert torch.equal(nearest(half, 4).cosines, nearest(half.float(), 4).cosines)
    check(half, 4, torch.arange(30) // 2)
    needs_grad = copied.clone().requires_grad_()
    assert not nearest(needs_grad, 2).cosines.requires_grad


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_named(bad: float) -> None:
    rows = drawn(30, 4)
    rows[[17, 23], 2] = bad
    with pytest.raises(InputError, match=r"^row 17 holds NaN or infinity"):
        nearest(rows, 2)
    with pytest.raises(InputError, match=r"^query 17 holds NaN or infinity"):
        nearest(drawn(30, 4), 2, queries=rows)


def test_nothing_given_is_changed(edge: int) -> None:
    rows, group = drawn(50, 4), torch.arange(50) // 2
    before = rows.clone()
    nearest(rows, 3, group=group)
    assert torch.equal(rows, before) and torch.equal(group, torch.arange(50) // 2)


def test_precision_of_products_is_given_back() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        nearest(drawn(20, 4), 2)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("size", [1, 1024, 2048, 4096, 100_000])
def test_tiles_fit_into_memory(size: int) -> None:
    edge = tile_edge(size)
    assert edge % TOGETHER == 0 and (4 * edge * (2 * edge + 3 * size) <= 2**28 or edge == TOGETHER)
    assert tile_edge(1024) == 4096


def test_products_are_as_exact_as_said() -> None:
    rows = torch.nn.functional.normalize(drawn(500, 2048).abs(), dim=1)  # all of one sign: nothing cancels
    assert (rows @ rows.t() - (rows.double() @ rows.double().t())).abs().max() < ROUNDING


def test_lists_find_most_and_never_the_own_group() -> None:
    pytest.importorskip("faiss")
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(55, 32, generator=random)
    rows = 3 + centres[torch.randint(0, 55, (3000,), generator=random)] + 0.4 * torch.randn(3000, 32, generator=random)
    group = torch.randint(0, 600, (3000,), generator=random)
    exact, listed = nearest(rows, 10, group=group), nearest(rows, 10, group=group, exact=False)
    assert (group[listed.numbers] != group[:, None]).all() and (listed.numbers >= 0).all()
    shared = (exact.numbers[:, :, None] == listed.numbers[:, None]).any(dim=2).float().mean()
    assert 0.9 < shared < 1
    unit = torch.nn.functional.normalize(rows, dim=1)
    np.testing.assert_allclose(listed.cosines, (unit[listed.numbers] * unit[:, None]).sum(dim=2), atol=1e-6)
    assert (listed.cosines.diff(dim=1) <= 0).all()
    again = nearest(rows, 10, group=group, exact=False)
    assert torch.equal(again.numbers, listed.numbers) and torch.equal(again.cosines, listed.cosines)
    asked = nearest(rows, 10, group=group, queries=rows[:200], query_group=group[:200], exact=False)
    assert torch.equal(asked.numbers, listed.numbers[:200])


@pytest.mark.parametrize("kind", ["equal", "zero", "one group", "large groups", "few"])
def test_lists_where_they_yield_too_little(kind: str) -> None:
    pytest.importorskip("faiss")
    rows, group = drawn(900, 8), torch.arange(900) % 300
    if kind in ("equal", "zero"):
        rows = torch.full_like(rows, float(kind == "equal"))
    if kind == "one group":
        group = torch.zeros_like(group)
    if kind == "large groups":
        group = torch.arange(900) % 4
    if kind == "few":
        rows, group = rows[:7], group[:7]
    found, exact = nearest(rows, 20, group=group, exact=False), nearest(rows, 20, group=group)
    assert torch.equal(found.numbers >= 0, exact.numbers >= 0)
    here = found.numbers >= 0
    assert (group[found.numbers] != group[:, None])[here].all()
    assert found.cosines.isfinite().all() and (found.cosines[~here] == 0).all()
    if kind not in ("equal", "zero"):
        assert torch.equal(found.numbers, exact.numbers) or kind == "few"


def test_size_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 100)
    learnt: list[str] = []
    noted = noting(learnt, "lists", inverted_lists.learn_lists)
    monkeypatch.setattr("methods.blocks.listed_neighbours.learn_lists", noted)
    nearest(drawn(100, 3), 2)
    nearest(drawn(101, 3), 2, exact=True)
    assert not learnt
    nearest(drawn(101, 3), 2)
    nearest(drawn(50, 3), 2, exact=False)
    assert len(learnt) == 2


def test_lists_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverted_lists, "faiss", None)
    with pytest.raises(InputError, match="neighbours among so many rows need faiss-cpu, which is not installed; run: "):
        nearest(drawn(20, 3), 2, exact=False)
    assert isinstance(nearest(drawn(20, 3), 2).numbers, Tensor)


def test_many_rows_without_faiss_are_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 50)
    monkeypatch.setattr(inverted_lists, "faiss", None)
    assert torch.equal(nearest(rows, 3).numbers, nearest(rows, 3, exact=True).numbers)
