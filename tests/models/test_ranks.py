"""Ranks: a hand-made case, perfect and collapsed models, ties, any number of captions an image, folds, the twin."""

from __future__ import annotations

import numpy as np
import pytest

from models import ranks
from models.ranks import Retrieval, folds_of, mean_retrieval, positions, retrieval
from tests import reference

OWNERS = np.array([0, 0, 1, 1, 2, 2, 3, 3])

HAND_MADE = np.array(
    [  # two captions an image; its own captions in columns 2 i and 2 i + 1
        [0.90, 0.10, 0.80, 0.20, 0.30, 0.40, 0.50, 0.60],  # 0.90 is best: place 0
        [0.95, 0.15, 0.30, 0.70, 0.10, 0.80, 0.20, 0.05],  # 0.95 and 0.80 beat 0.70: place 2
        [0.10, 0.20, 0.40, 0.50, 0.60, 0.05, 0.60, 0.30],  # 0.60 ties with 0.60: place 1
        [0.50, 0.60, 0.70, 0.80, 0.90, 0.95, 0.10, 0.40],  # all six others beat 0.40: place 6
    ]
)


def as_plain(result: Retrieval) -> dict[str, dict[str, float]]:
    """Put our ranks under the twin's names."""
    return {
        name: {
            "r1": ranks.recall[1],
            "r5": ranks.recall[5],
            "r10": ranks.recall[10],
            "median": ranks.median_rank,
            "mean": ranks.mean_rank,
        }
        for name, ranks in (("i2t", result.i2t), ("t2i", result.t2i))
    }


def test_hand_made_case() -> None:
    found = positions(HAND_MADE, OWNERS)
    assert found.i2t.tolist() == [0, 2, 1, 6]
    # column by column: who else scores at least what the caption's own image does
    assert found.t2i.tolist() == [1, 3, 3, 1, 1, 3, 3, 1]
    assert as_plain(retrieval(HAND_MADE, OWNERS)) == {
        "i2t": {"r1": 25.0, "r5": 75.0, "r10": 100.0, "median": 2.0, "mean": 3.25},
        "t2i": {"r1": 0.0, "r5": 100.0, "r10": 100.0, "median": 3.0, "mean": 3.0},
    }
    assert retrieval(HAND_MADE, OWNERS).r_sum == 400.0


def test_a_perfect_model_has_the_largest_sum() -> None:
    sims = (OWNERS == np.arange(4)[:, None]).astype(np.float32)
    result = retrieval(sims, OWNERS)
    assert result.r_sum == 600.0
    assert [result.i2t.median_rank, result.i2t.mean_rank, result.t2i.median_rank, result.t2i.mean_rank] == [1.0] * 4


def test_a_collapsed_model_is_last_everywhere() -> None:
    """Equal scores tell nothing: ties count against the model."""
    images, each = 30, 5
    result = retrieval(np.full((images, images * each), 0.5), np.arange(images * each) // each)
    assert result.r_sum == 0.0
    assert result.i2t.mean_rank == result.i2t.median_rank == (images - 1) * each + 1
    assert result.t2i.mean_rank == result.t2i.median_rank == images


@pytest.mark.parametrize("block_bytes", [1, 500, 2**20])
@pytest.mark.parametrize("seed", range(6))
def test_ranks_are_the_twins(seed: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of captions an image, none as well, in any order, with ties, in blocks of any height."""
    monkeypatch.setattr(ranks, "BLOCK_BYTES", block_bytes)
    random = np.random.RandomState(seed)
    images = 12
    owners = random.permutation(np.concatenate([np.arange(images - seed), random.randint(0, images - seed, 20)]))
    sims = np.round(random.rand(images, len(owners)), 2 if seed % 2 else 1)
    ours, twin = as_plain(retrieval(sims, owners)), reference.ranks(sims, owners)
    for name in ("i2t", "t2i"):
        assert ours[name] == pytest.approx(twin[name], abs=1e-9)


def test_correspondence_is_data_and_not_file_order() -> None:
    """Shuffled captions with their owners are ranked alike."""
    order = np.array([5, 0, 7, 2, 1, 6, 4, 3])
    assert as_plain(retrieval(HAND_MADE[:, order], OWNERS[order])) == as_plain(retrieval(HAND_MADE, OWNERS))
    assert as_plain(retrieval(HAND_MADE[:, order], OWNERS)) != as_plain(retrieval(HAND_MADE, OWNERS))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    sims = HAND_MADE.copy()
    sims[2, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        retrieval(sims, OWNERS)


@pytest.mark.parametrize("sims", [HAND_MADE[:, :7], HAND_MADE.ravel(), HAND_MADE[None]])
def test_shapes_must_fit(sims: np.ndarray) -> None:
    with pytest.raises(ValueError, match="do not fit 8 captions"):
        retrieval(sims, OWNERS)


def test_folds_are_ranked_on_their_own() -> None:
    """Two folds of two images each: only their own captions compete."""
    folds = folds_of(HAND_MADE, OWNERS, 2)
    assert [as_plain(f) for f in folds] == [
        as_plain(retrieval(HAND_MADE[:2, :4], np.array([0, 0, 1, 1]))),
        as_plain(retrieval(HAND_MADE[2:, 4:], np.array([0, 0, 1, 1]))),
    ]
    mean = mean_retrieval(folds)
    assert mean.i2t.recall[1] == (folds[0].i2t.recall[1] + folds[1].i2t.recall[1]) / 2
    assert mean.t2i.mean_rank == (folds[0].t2i.mean_rank + folds[1].t2i.mean_rank) / 2
    assert mean.i2t.median_rank == (folds[0].i2t.median_rank + folds[1].i2t.median_rank) / 2
    assert mean.r_sum == pytest.approx((folds[0].r_sum + folds[1].r_sum) / 2)
    assert folds[0].r_sum != folds[1].r_sum


def test_every_image_competes_also_without_a_caption() -> None:
    sims = np.array([[0.5, 0.4], [0.9, 0.3], [0.1, 0.8]])
    found = positions(sims, np.array([0, 0]))
    assert found.i2t.tolist() == [0], "images 1 and 2 ask nothing"
    assert found.t2i.tolist() == [1, 1], "but stand before caption 0's and caption 1's image"
