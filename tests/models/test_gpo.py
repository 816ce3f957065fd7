"""GPO against its slow twin, the published values, and at its edges; the rest of a similarity: test_similarity.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models import vse
from models.encoders import run_gru
from models.vse import GPO, RankPooling
from tests import golden, reference
from tests.models.networks import LENGTHS, assert_same, gradients, make_matcher, randomise, tensors_of

GOLDEN_FILE = Path(__file__).parents[3] / "shared" / "golden" / golden.SIMILARITY_FILE


def make_pooling(seed: int = 0) -> RankPooling:
    """Return a pooling with random weights large enough that its ranks matter."""
    torch.manual_seed(seed)
    pooling = RankPooling().double()
    randomise(pooling)
    return pooling


def draw(lengths: tuple[int, ...], size: int = 5) -> Tensor:
    """Draw elements (B, K, size) with garbage beyond each set, larger and smaller than what is there."""
    random = torch.Generator().manual_seed(4)
    elements = torch.randn(len(lengths), max(lengths), size, generator=random, dtype=torch.float64)
    for row, length in enumerate(lengths):
        elements[row, length:] = 50.0 if row % 2 else -50.0
    return elements.requires_grad_()


@pytest.mark.parametrize("lengths", [LENGTHS, (1, 7, 1, 7, 2), (1,), (4, 4)], ids=str)
def test_pooling_is_its_twin(lengths: tuple[int, ...]) -> None:
    pooling, elements = make_pooling(), draw(lengths)
    state = tensors_of(pooling)
    twin = torch.stack([reference.pool_gpo(state, e[:n]) for e, n in zip(elements, lengths, strict=True)])
    assert_same(pooling(elements, torch.tensor(lengths)), twin, [elements, *pooling.parameters()])
    with torch.no_grad():
        torch.testing.assert_close(pooling(elements, torch.tensor(lengths)), twin)


@pytest.mark.parametrize("lengths", [LENGTHS, (1, 4, 1), (2,)], ids=str)
def test_scores_and_gradients_are_the_twins(lengths: tuple[int, ...]) -> None:
    module = make_matcher("GPO").similarity
    regions, words, number = draw((3, 3, 3), size=6), draw(lengths, size=6), torch.tensor(lengths)
    sims = module(module.pool_images(regions), module.pool_captions(words, number))
    twin = reference.score_gpo(tensors_of(module), regions, words, lengths)
    assert_same(sims, twin, [regions, words, *module.parameters()])


def test_weights_are_shares_of_the_ranks_there_are() -> None:
    lengths = (3, 1, 5, 3)
    weights = make_pooling().rank_weights(torch.tensor(lengths))
    assert weights.shape == (4, 5)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert [(row > 0).sum() for row in weights] == list(lengths)
    assert torch.equal(weights[0], weights[3]) and weights[1, 0] == 1.0
    assert weights[2].max() > 2 * weights[2].min(), "a mean would pass every other test"


def test_each_length_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(gru: torch.nn.GRU, codes: Tensor, batch_sizes: Tensor) -> list[Tensor]:
        seen.append(batch_sizes.tolist())
        return run_gru(gru, codes, batch_sizes)

    monkeypatch.setattr(vse, "run_gru", spy)
    pooling = make_pooling()
    pooling(draw((2, 4, 2, 4, 4, 1)), torch.tensor((2, 4, 2, 4, 4, 1)))
    assert seen == [[3, 2, 1, 1]]


def test_order_and_padding_do_not_matter() -> None:
    pooling, elements, lengths = make_pooling(), draw((3, 2, 5)), torch.tensor((3, 2, 5))
    pooled = pooling(elements, lengths)
    wider = torch.cat([elements, torch.full((3, 4, 5), torch.inf)], dim=1)
    torch.testing.assert_close(pooling(wider, lengths), pooled)
    turned = elements.detach().clone()
    for row, length in enumerate(lengths.tolist()):
        turned[row, :length] = turned[row, :length].flip(0)
    torch.testing.assert_close(pooling(turned, lengths), pooled)


def test_equal_values_and_zeros_have_finite_gradients() -> None:
    module = GPO()
    regions, words = torch.zeros(2, 3, 6, requires_grad=True), torch.ones(2, 4, 6, requires_grad=True)
    sims = module(module.pool_images(regions), module.pool_captions(words, torch.tensor([1, 4])))
    assert all(torch.isfinite(g).all() for g in gradients(sims, [regions, words, *module.parameters()]))


@pytest.mark.skipif(not GOLDEN_FILE.is_file(), reason="the golden files are not part of the project")
def test_published_values() -> None:
    content = golden.read_golden(GOLDEN_FILE)
    comparisons = list(golden.compare_gpo(content))
    assert len(comparisons) == 4 and [c for c in comparisons if not c.is_ok] == []
    outputs = ("gpo/words_", "gpo/regions_")
    changed = {key: value + np.float32(2e-5) * key.startswith(outputs) for key, value in content.items()}
    assert not any(c.is_ok for c in golden.compare_gpo(changed))
