"""What an epoch trains on, with and without offered pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data_utils.precomputed import PrecomputedSplit
from methods.blocks.rematch import Offers
from tests.tiny import make_tiny_data
from training.division import Division
from training.epoch_pairs import epoch_pairs
from vocab.vocabulary import Vocabulary


def tiny_split(root: Path) -> PrecomputedSplit:
    make_tiny_data(root)
    vocabulary = Vocabulary.load(root / "vocab" / "tiny_precomp_vocab.json")
    return PrecomputedSplit(root / "data" / "tiny_precomp", "train", vocabulary)


def division_of(split: PrecomputedSplit, offers: Offers | None) -> Division:
    probability = np.linspace(0, 1, len(split))
    return Division(-probability, probability, probability > 0.5, offers=offers)


def test_without_a_division_everything_is_clean(tmp_path: Path) -> None:
    split = tiny_split(tmp_path)
    pairs = epoch_pairs(split, None)
    assert pairs.split is split and len(pairs.clean) == len(split) == 200 and not len(pairs.noisy)
    assert (pairs.probability == 1).all()


def test_offered_pairs_stand_behind_the_given_ones(tmp_path: Path) -> None:
    split = tiny_split(tmp_path)
    offers = Offers(np.array([3, 3, 150]), np.array([7, 8, 0]), np.array([0.6, 0.7, 0.8]))
    division = division_of(split, offers)
    pairs = epoch_pairs(split, division)
    assert np.array_equal(pairs.noisy, np.flatnonzero(~division.is_clean))
    assert pairs.clean[-3:].tolist() == [200, 201, 202] and len(pairs.clean) == division.is_clean.sum() + 3
    torch.testing.assert_close(pairs.probability[-3:], torch.tensor([0.6, 0.7, 0.8]))
    batch = pairs.split[torch.tensor([3, 200, 202])]
    assert batch.index.tolist() == [3, 200, 202] and batch.image_id.tolist() == [0, 7, 0]
    torch.testing.assert_close(batch.tokens[0], batch.tokens[1])
    assert batch.lengths.tolist() == [split.lengths[3], split.lengths[3], split.lengths[150]]
    alone = split[torch.tensor([150])]
    torch.testing.assert_close(batch.tokens[2][: alone.tokens.shape[1]], alone.tokens[0])
    torch.testing.assert_close(batch.regions[1], split.read_images(np.array([7]))[0])
    assert len(split) == 200 and np.array_equal(split.image_of_pair, np.arange(200) // 5), "the given pairs stay"


def test_no_offers_change_nothing(tmp_path: Path) -> None:
    split = tiny_split(tmp_path)
    none = Offers(*(np.empty(0, dtype=np.int64) for _ in range(2)), np.empty(0))
    for offers in (None, none):
        assert epoch_pairs(split, division_of(split, offers)).split is split


def test_a_division_comes_back_from_its_state(tmp_path: Path) -> None:
    split = tiny_split(tmp_path)
    for offers in (None, Offers(np.array([3]), np.array([7]), np.array([0.6]))):
        division = division_of(split, offers)
        back = Division.from_state(division.as_state())
        assert np.array_equal(back.signal, division.signal) and np.array_equal(back.is_clean, division.is_clean)
        assert (back.offers is None) == (offers is None)
        if offers is not None and back.offers is not None:
            assert back.offers.image.tolist() == [7]
