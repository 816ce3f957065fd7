"""Captions that read alike: found by cosine, named in a batch, and out of the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.blocks.alike import alike_captions, alike_in_batch
from models.contrastive import LOSSES
from tests.methods.test_agreement import make_bank
from tests.methods.test_contract import make
from tests.methods.test_rematch import agreement_twin, concepts_bank
from tests.models.networks import make_batch, make_matcher
from training.network import Network
from training.trainer import LabelledBatch, part_loss


@pytest.mark.parametrize("seed", range(3))
def test_alike_captions_are_the_twins(seed: int) -> None:
    """Neighbours of other pictures whose cosine is at least the median agreement of trusted captions."""
    bank = make_bank(9, 25, seed=seed)
    trusted = np.random.RandomState(seed).rand(25) < 0.7
    given = bank.image_of_pair.tolist()
    usual = sorted(agreement_twin(bank, trusted, given[c], c) for c in range(25) if trusted[c])
    median = usual[(len(usual) - 1) // 2]
    unit = torch.nn.functional.normalize(bank.captions, dim=1)
    cosines = (unit @ unit.t()).tolist()
    found = alike_captions(bank, trusted, 4)
    assert found.shape == (25, 4) and found.dtype == np.int32
    for c in range(25):
        others = [j for j in range(25) if given[j] != given[c]]
        near = sorted(others, key=lambda j: -cosines[c][j])[:4]
        assert [j for j in found[c].tolist() if j >= 0] == [j for j in near if cosines[c][j] >= median - 2e-6]


def test_the_same_words_under_another_picture_are_alike() -> None:
    bank = concepts_bank(noise=0.3)
    bank.captions[9] = bank.captions[0]
    found = alike_captions(bank, np.arange(len(bank.captions)) % 4 > 0, 10)
    assert 9 in found[0].tolist() and 0 in found[9].tolist()


def test_without_trusted_pairs_nothing_is_alike() -> None:
    assert (alike_captions(make_bank(), np.zeros(18, dtype=bool), 3) == -1).all()


def test_alike_in_a_batch() -> None:
    """Captions 5, 7, 9, 5: 5 names 7, nobody names 9, and 5 stands there twice."""
    caption = torch.tensor([5, 7, 9, 5])
    alike = torch.tensor([[7, -1], [-1, -1], [-1, -1], [7, -1]])
    expected = [[0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert alike_in_batch(caption, alike).int().tolist() == expected


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_masked_negative_is_out_of_the_loss(loss: str, hardness: float) -> None:
    """The loss of a batch with pairs 0 and 1 masked does not change with their captions' scores."""
    method = make("consensus", loss=loss)
    matcher = make_matcher("VSE").eval()
    network = Network("A", matcher, torch.optim.Adam(matcher.parameters()), method, torch.Generator())
    batch = make_batch((3, 2, 5, 3))
    masked = torch.zeros(4, 4, dtype=torch.bool)
    masked[0, 1] = masked[1, 0] = True
    parts = [LabelledBatch(batch, torch.ones(4, dtype=torch.float64), no_negatives=mask) for mask in (masked, None)]
    losses = [part_loss(network, part, hardness) for part in parts]
    assert torch.isfinite(losses[0]) and (hardness == 1.0 or losses[0] != losses[1])
    if loss != "complementary":  # there what is left must share the probability
        assert losses[0] <= losses[1]
    losses[0].backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in matcher.parameters())
    everything = ~torch.eye(4, dtype=torch.bool)
    alone = part_loss(
        network, LabelledBatch(batch, torch.ones(4, dtype=torch.float64), no_negatives=everything), hardness
    )
    assert float(alone.detach()) == pytest.approx(0.0, abs=1e-12)
