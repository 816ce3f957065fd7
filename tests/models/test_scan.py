"""SCAN against its slow twin, the published values, and at its edges; tiles and single pairs: test_similarity.py."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import attention, scan, similarity
from models.matcher import SIMILARITIES, MatcherConfig
from models.scan import POOLINGS, SCAN
from runtime.errors import InputError
from tests import golden, reference
from tests.models.networks import LENGTHS, assert_same, gradients

DIRECTIONS = ("t2i", "i2t")
SIZE = 6
PUBLISHED = {"t2i": (9.0, 6.0), "i2t": (4.0, 5.0)}
GOLDEN_FILE = Path(__file__).parents[3] / "shared" / "golden" / golden.SIMILARITY_FILE

every_kind = pytest.mark.parametrize(("direction", "pooling"), list(itertools.product(DIRECTIONS, POOLINGS)))
Inputs = tuple[Tensor, Tensor, Tensor]


def draw(lengths: tuple[int, ...] = LENGTHS, images: int = 3) -> Inputs:
    """Draw regions (images, 4, SIZE) and words (C, W, SIZE), neither of unit length, with garbage beyond captions."""
    random = torch.Generator().manual_seed(3)
    regions = 0.4 * torch.randn(images, 4, SIZE, generator=random, dtype=torch.float64)
    words = 0.4 * torch.randn(len(lengths), max(lengths), SIZE, generator=random, dtype=torch.float64)
    return regions.requires_grad_(), words.requires_grad_(), torch.tensor(lengths)


def score(module: SCAN, inputs: Inputs) -> Tensor:
    regions, words, lengths = inputs
    return module(module.pool_images(regions), module.pool_captions(words, lengths))


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the 1e-8 out of every norm: here and in the twin it stands at different sums."""
    for module, name in ((attention, "EPSILON"), (scan, "EPSILON"), (reference, "EPS")):
        monkeypatch.setattr(module, name, 0.0)


@pytest.mark.parametrize("factors", [None, (2.5, 11.0)], ids=["published", "given"])
@pytest.mark.parametrize("lengths", [LENGTHS, (1, 4, 1), (2,), (1,)], ids=str)
@pytest.mark.parametrize("chunk_numbers", [2**22, 0], ids=["one graph", "chunks"])
@pytest.mark.usefixtures("exact_norms")
@every_kind
def test_scores_and_gradients_are_the_twins(
    direction: str,
    pooling: str,
    chunk_numbers: int,
    lengths: tuple[int, ...],
    factors: tuple[float, float] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Captions of several lengths share a chunk, so that padded words lie inside."""
    monkeypatch.setitem(similarity.CHUNK_NUMBERS, "cpu", chunk_numbers)
    given = {} if factors is None else {"softmax_factor": factors[0], "lse_factor": factors[1]}
    module, inputs = SCAN(direction, pooling=pooling, **given), draw(lengths)
    twin = reference.score_scan(*inputs, direction, pooling, *(factors or PUBLISHED[direction]))
    assert_same(score(module, inputs), twin, inputs[:2])
    with torch.no_grad():
        torch.testing.assert_close(score(module, inputs), twin)


@every_kind
def test_what_is_zero_has_finite_gradients(direction: str, pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    regions, words, lengths = (t.detach().float() if t.is_floating_point() else t for t in draw())
    regions[0, 1], regions[1], words[2, 0] = 0.0, 0.0, 0.0
    regions.requires_grad_()
    words.requires_grad_()
    for chunk_numbers in (2**22, 0):
        monkeypatch.setitem(similarity.CHUNK_NUMBERS, "cpu", chunk_numbers)
        sims = score(SCAN(direction, pooling=pooling), (regions, words, lengths))
        assert torch.isfinite(sims).all()
        assert all(torch.isfinite(g).all() for g in gradients(sims, [regions, words]))


@pytest.mark.parametrize("factor", [0.01, 40.0])
@every_kind
def test_allowed_factors_neither_overflow_nor_vanish_in_float32(direction: str, pooling: str, factor: float) -> None:
    module = SCAN(direction, pooling=pooling, softmax_factor=factor, lse_factor=25 * factor)
    inputs = draw((1, 60, 2))
    low = score(module, tuple(t.float() if t.is_floating_point() else t for t in inputs))  # type: ignore[arg-type]
    torch.testing.assert_close(low.double(), score(module, inputs), rtol=0, atol=1e-5)
    assert all(torch.isfinite(g).all() for g in gradients(low, inputs[:2]))


@pytest.mark.parametrize("module_name", ["SCAN_t2i", "SCAN_i2t"])
def test_flags_reach_the_similarity(module_name: str) -> None:
    direction, inputs = module_name[-3:], draw()
    for flags, expected in (
        ({}, ("lse", *PUBLISHED[direction])),
        ({"scan_pooling": "mean"}, ("mean", PUBLISHED[direction][0], 1.0)),
        ({"scan_softmax": 3.0}, ("lse", 3.0, PUBLISHED[direction][1])),
        ({"scan_lse": 20.0}, ("lse", PUBLISHED[direction][0], 20.0)),
    ):
        module = SIMILARITIES[module_name](MatcherConfig(module_name=module_name, embed_size=SIZE, **flags), 4)
        assert isinstance(module, SCAN) and not list(module.parameters())
        twin = reference.score_scan(*inputs, direction, *expected)
        torch.testing.assert_close(score(module, inputs), twin, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scan_softmax", 0.0),
        ("scan_softmax", 41.0),
        ("scan_softmax", math.nan),
        ("scan_lse", -6.0),
        ("scan_lse", math.inf),
        ("scan_pooling", "max"),
    ],
)
def test_bad_flags_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"--{name} .*{value}"):
        MatcherConfig(module_name="SCAN_t2i", **{name: value})


@pytest.mark.skipif(not GOLDEN_FILE.is_file(), reason="the golden files are not part of the project")
def test_published_values() -> None:
    content = golden.read_golden(GOLDEN_FILE)
    comparisons = list(golden.compare_scan(content))
    assert len(comparisons) == 5 and [c for c in comparisons if not c.is_ok] == []
    changed = {key: value + np.float32(2e-5) * key.startswith("scan/") for key, value in content.items()}
    assert not any(c.is_ok for c in golden.compare_scan(changed))
