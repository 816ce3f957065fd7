"""Several networks in turn: the scores and the mean of `similarities_by_name`, with two matrices in memory at most."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from models import ensemble
from models.encoded_split import similarities_by_name
from models.ensemble import rank_scores, scores_in_turn
from models.ranks import folds_of, mean_retrieval, retrieval
from models.relevance import GroundTruth, Relevance, relevance_result
from tests.models.splits import small_matcher, small_split
from tests.models.test_ranks import HAND_MADE, OWNERS

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_scores_and_their_mean_are_those_of_all_at_once(tmp_path: Path, count: int) -> None:
    split = small_split(tmp_path)
    matchers = {name: small_matcher(split, "VSE", seed=k) for k, name in enumerate(("A", "B", "A1")[:count])}
    at_once = similarities_by_name(matchers, split, CPU)
    in_turn = {name: sims.copy() for name, sims in scores_in_turn(matchers, split, CPU)}
    assert list(in_turn) == list(at_once)
    assert all(np.array_equal(in_turn[name], at_once[name]) and in_turn[name].dtype == np.float32 for name in at_once)


def test_two_matrices_are_in_memory_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def fake(matcher: int, split: None, device: None) -> np.ndarray:
        nonlocal most
        gc.collect()
        sims = np.random.RandomState(matcher).rand(4, 8)
        alive.append(weakref.ref(sims))
        most = max(most, sum(ref() is not None for ref in alive))
        return sims

    monkeypatch.setattr(ensemble, "similarities", fake)
    named = dict(zip("ABCDE", range(5), strict=True))
    found = rank_scores(scores_in_turn(named, None, None), OWNERS)  # type: ignore[arg-type]
    assert list(found.whole) == [*"ABCDE", "mean"] and most == 2


def test_everything_that_is_asked_for_is_ranked() -> None:
    other, kept = HAND_MADE[::-1].copy(), {}
    truth = GroundTruth(
        Relevance.of(np.array([0, 2]), np.array([1, 5])), Relevance.of(np.array([3, 4]), np.array([0, 1]))
    )
    found = rank_scores(
        [("A", HAND_MADE), ("B", other)],
        OWNERS,
        fold_images=2,
        truth=truth,
        keep=lambda name, sims: kept.update({name: sims.copy()}),
    )
    for name, sims in (("A", HAND_MADE), ("B", other)):
        assert found.whole[name] == retrieval(sims, OWNERS)
        assert found.folds[name] == mean_retrieval(folds_of(sims, OWNERS, 2))
        assert found.relevance[name] == relevance_result(sims, truth)
        assert np.array_equal(kept[name], sims)
    assert found.whole["A"] != found.whole["B"]
    plain = rank_scores([("A", HAND_MADE)], OWNERS)
    assert not plain.folds and not plain.relevance
