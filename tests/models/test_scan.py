"""SCAN against its slow twin, the published values, and at its edges; tiles and single pairs: test_similarity.py."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import attention, scan, tiles
from models.matcher import MatcherConfig, MatcherShape, build_matcher
from models.scan import POOLINGS, SCAN
from models.similarity import SIMILARITIES
from runtime.errors import InputError
from tests import golden, reference
from tests.models.networks import LENGTHS, assert_same, gradients, make_batch
from training.sparse import hardest_loss

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


def score(module: SCAN, inputs: Inputs, **named: Any) -> Tensor:
    regions, words, lengths = inputs
    return module(module.pool_images(regions), module.pool_captions(words, lengths), **named)


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the 1e-8 out of every norm: here and in the twin it stands at different sums."""
    for module, name in ((attention, "EPSILON"), (scan, "EPSILON"), (reference, "EPS")):
        monkeypatch.setattr(module, name, 0.0)


@pytest.mark.parametrize("factors", [None, (2.5, 11.0)], ids=["published", "given"])
@pytest.mark.parametrize("lengths", [LENGTHS, (1, 4, 1), (2,), (1,)], ids=str)
@pytest.mark.parametrize("sparse", [False, True], ids=["one graph", "tiles"])
@pytest.mark.usefixtures("exact_norms")
@every_kind
def test_scores_and_gradients_are_the_twins(
    direction: str, pooling: str, sparse: bool, lengths: tuple[int, ...], factors: tuple[float, float] | None
) -> None:
    """Lengths are joined, so that padded words lie inside the tiles."""
    given = {} if factors is None else {"softmax_factor": factors[0], "lse_factor": factors[1]}
    module, inputs = SCAN(SIZE, direction, pooling=pooling, **given), draw(lengths)
    twin = reference.score_scan(*inputs, direction, pooling, *(factors or PUBLISHED[direction]))
    assert_same(score(module, inputs, sparse=sparse), twin, inputs[:2])
    with torch.no_grad():
        torch.testing.assert_close(score(module, inputs), twin)


@every_kind
def test_the_small_number_in_the_norms_moves_scores_by_little(direction: str, pooling: str) -> None:
    module, inputs = SCAN(SIZE, direction, pooling=pooling), draw()
    twin = reference.score_scan(*inputs, direction, pooling, *PUBLISHED[direction])
    torch.testing.assert_close(score(module, inputs), twin, rtol=0, atol=1e-6)


@pytest.mark.parametrize("image", [0, 2])
@every_kind
def test_a_batch_of_one(direction: str, pooling: str, image: int) -> None:
    module, (regions, words, lengths) = SCAN(SIZE, direction, pooling=pooling), draw((1, 5, 3))
    whole = score(module, (regions, words, lengths))
    for caption, length in enumerate(lengths.tolist()):  # one word, and the longest caption, among them
        pair = (slice(image, image + 1), slice(caption, caption + 1))
        single = score(module, (regions[pair[0]], words[pair[1], :length], lengths[pair[1]]))
        torch.testing.assert_close(single, whole[pair])


@every_kind
def test_what_is_zero_has_finite_gradients(direction: str, pooling: str) -> None:
    regions, words, lengths = (t.detach().float() if t.is_floating_point() else t for t in draw())
    regions[0, 1], regions[1], words[2, 0] = 0.0, 0.0, 0.0
    regions.requires_grad_()
    words.requires_grad_()
    for sparse in (False, True):
        sims = score(SCAN(SIZE, direction, pooling=pooling), (regions, words, lengths), sparse=sparse)
        assert torch.isfinite(sims).all()
        assert all(torch.isfinite(g).all() for g in gradients(sims, [regions, words]))


@pytest.mark.parametrize("factor", [0.01, 40.0])
@every_kind
def test_allowed_factors_neither_overflow_nor_vanish_in_float32(direction: str, pooling: str, factor: float) -> None:
    module = SCAN(SIZE, direction, pooling=pooling, softmax_factor=factor, lse_factor=25 * factor)
    inputs = draw((1, 60, 2))
    low = score(module, tuple(t.float() if t.is_floating_point() else t for t in inputs))  # type: ignore[arg-type]
    torch.testing.assert_close(low.double(), score(module, inputs), rtol=0, atol=1e-5)
    assert all(torch.isfinite(g).all() for g in gradients(low, inputs[:2]))


@pytest.mark.parametrize("sparse", [False, True])
@every_kind
def test_no_tile_holds_more_than_it_may(
    direction: str, pooling: str, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The products of all words with all regions of a batch are never there at once."""
    monkeypatch.setattr(tiles, "TILE_COST", 0)
    monkeypatch.setattr(tiles, "tile_shape", lambda *_: (3, 8))
    monkeypatch.setattr("models.tiled.fits_one_graph", lambda *_, **__: False)
    seen = []
    inner = scan.attended_cosines

    def spy(*arguments: Any) -> Tensor:
        cosines = inner(*arguments)
        seen.append(math.prod(cosines.shape) * arguments[0].shape[1])
        return cosines

    monkeypatch.setattr(scan, "attended_cosines", spy)
    inputs = draw((4, 2, 3, 4, 2, 4), images=10)
    score(SCAN(SIZE, direction, pooling=pooling), inputs, sparse=sparse).sum().backward()
    assert max(seen) <= 3 * 4 * (8 + 4) and len(seen) > 10


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


@pytest.mark.parametrize("module_name", ["SCAN_t2i", "SCAN_i2t"])
def test_hardest_negatives_in_lower_precision_are_those_of_full(module_name: str) -> None:
    """The look at all pairs may be in bfloat16: loss and gradients stay those of the dense way in float32."""
    lengths = tuple(2 + k % 4 for k in range(16))
    found = []
    for dtype in (None, torch.bfloat16):
        config = MatcherConfig(module_name=module_name, word_dim=4, embed_size=32, dropout=0.0)
        torch.manual_seed(0)
        matcher = build_matcher(config, MatcherShape(11, 3, 5)).train()
        matcher.similarity.scoring_dtype = dtype
        batch = make_batch(lengths)
        embeddings = matcher.embed(dataclasses.replace(batch, regions=batch.regions.float()))
        loss = hardest_loss(matcher, embeddings, lambda sims: (sims - sims.diagonal() + 0.2).clamp(min=0).amax(0).sum())
        found.append((loss.detach(), gradients(loss, matcher.parameters())))
    (full, full_gradients), (low, low_gradients) = found
    assert full > 0
    torch.testing.assert_close(low, full, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(low_gradients, full_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not GOLDEN_FILE.is_file(), reason="the golden files are not part of the project")
def test_published_values() -> None:
    content = golden.read_golden(GOLDEN_FILE)
    comparisons = list(golden.compare_scan(content))
    assert len(comparisons) == 5 and [c for c in comparisons if not c.is_ok] == []
    changed = {key: value + np.float32(2e-5) * key.startswith("scan/") for key, value in content.items()}
    assert not any(c.is_ok for c in golden.compare_scan(changed))
