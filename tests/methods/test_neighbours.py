"""Nearest rows: against a slow twin, and where rows tie, vanish, overflow or run out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.blocks import neighbours
from methods.blocks.neighbours import nearest
from runtime.errors import InputError


@pytest.fixture(params=[3, 16, 64, 4096])
def edge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles that small cases fill once or many times."""
    monkeypatch.setattr(neighbours, "EDGE", request.param)
    return int(request.param)


def drawn(count: int, size: int, seed: int = 0) -> Tensor:
    """Rows of very different lengths about a few centres."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, size, generator=random)
    rows = centres[torch.randint(0, 5, (count,), generator=random)] + 0.5 * torch.randn(count, size, generator=random)
    return rows * 10 ** torch.randn(count, 1, generator=random)


def check(rows: Tensor, count: int, group: Tensor | None = None) -> None:
    """Compare with the twin: the same cosines at every place, each row once and none of the own group."""
    found = nearest(rows, count, group=group)
    assert found.shape == (len(rows), count) and found.dtype == torch.long
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    own = torch.arange(len(rows)) if group is None else group
    cosines, allowed = (unit @ unit.t()).tolist(), (own[:, None] != own).tolist()
    for q, numbers in enumerate(found.tolist()):
        here = [n for n in numbers if n >= 0]
        expected = sorted((c for c, ok in zip(cosines[q], allowed[q], strict=True) if ok), reverse=True)[:count]
        assert len(set(here)) == len(here) == len(expected) and numbers[len(here) :] == [-1] * (count - len(here))
        assert all(allowed[q][n] for n in here)
        np.testing.assert_allclose([cosines[q][n] for n in here], expected, atol=2e-6)


@pytest.mark.parametrize("rows", [0, 1, 2, 17, 200])
def test_as_its_twin(rows: int, edge: int) -> None:
    group = torch.randint(0, max(1, rows // 4), (rows,), generator=torch.Generator().manual_seed(1))
    given_rows = drawn(rows, 6)
    before = given_rows.clone()
    for count in (1, 3, 7, 200):
        check(given_rows, count)
        check(given_rows, count, group)
    assert torch.equal(given_rows, before)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-2, 2), max_size=100), st.integers(1, 3), st.integers(1, 12), st.integers(1, 40))
def test_small_integers_tie_everywhere(values: list[int], size: int, count: int, groups: int) -> None:
    """Whole numbers in one to three dimensions: rows of zeros, equal rows, opposite rows, one group for all."""
    rows = torch.tensor(values[: len(values) // size * size], dtype=torch.float32).view(-1, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "EDGE", 16)
        check(rows, count, torch.arange(len(rows)) * 13 % groups)


def test_of_equal_ones_the_lowest_number_comes_first() -> None:
    found = nearest(torch.ones(70, 9), 69)
    assert all(row == [n for n in range(70) if n != q] for q, row in enumerate(found.tolist()))


@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e38])
def test_lengths_that_cannot_be_squared(scale: float) -> None:
    rows = torch.nn.functional.normalize(drawn(40, 5), dim=1)
    assert torch.equal(nearest(rows * scale, 5), nearest(rows, 5))


def test_other_layouts_and_types() -> None:
    wide = drawn(60, 12)
    strided, copied = wide[::2, 1::2], wide[::2, 1::2].contiguous()
    assert torch.equal(nearest(strided, 4), nearest(copied, 4))
    half = (copied / copied.norm(dim=1, keepdim=True)).half()
    assert torch.equal(nearest(half.requires_grad_(), 4), nearest(half.float(), 4))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_named(bad: float, edge: int) -> None:
    rows = drawn(30, 4)
    rows[[17, 23], 2] = bad
    with pytest.raises(InputError, match=r"^row 17 holds NaN or infinity"):
        nearest(rows, 2)


def test_precision_of_products_is_given_back() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        nearest(drawn(20, 4), 2)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
