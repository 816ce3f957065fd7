"""What the report computes, against slow twins and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tools.report.division import calibration, chosen_epochs, expected_error, roc_points, threshold
from tools.report.pictures import extremes, rank, word_weights
from tools.report.runs import StoredDivision


def test_calibration_by_hand() -> None:
    probability = np.array([0.05, 0.02, 0.55, 0.51, 0.95, 1.0])
    is_matched = np.array([False, True, True, False, True, True])
    found = calibration(probability, is_matched)
    assert [b.pairs for b in found] == [2, 2, 2]
    assert [b.probability for b in found] == pytest.approx([0.035, 0.53, 0.975])
    assert [b.matched for b in found] == [0.5, 0.5, 1.0]
    assert expected_error(found) == pytest.approx((2 * 0.465 + 2 * 0.03 + 2 * 0.025) / 6)


def test_the_roc_keeps_its_area_and_ends() -> None:
    random = np.random.RandomState(0)
    is_matched = random.rand(4000) < 0.6
    probability = np.clip(0.5 * is_matched + 0.6 * random.rand(4000), 0, 1)
    x, y = roc_points(probability, is_matched)
    assert len(x) <= 121 and (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1) and (np.diff(x) >= 0).all()
    pairs = probability[is_matched][:, None] - probability[~is_matched][None, :]
    assert np.trapezoid(y, x) == pytest.approx((pairs > 0).mean() + 0.5 * (pairs == 0).mean(), abs=5e-3)


def slow_weights(regions: np.ndarray, words: np.ndarray, factor: float, words_ask: bool) -> np.ndarray:
    found = np.zeros((len(words), len(regions)))
    raised = np.array([[max(w @ r, 0.1 * (w @ r)) for r in regions] for w in words])
    if words_ask:
        for k in range(len(words)):
            row = [np.exp(factor * raised[k, r] / np.sqrt((raised[:, r] ** 2).sum())) for r in range(len(regions))]
            found[k] = np.array(row) / np.sum(row)
    else:
        for r in range(len(regions)):
            column = [np.exp(factor * raised[k, r] / np.sqrt((raised[k] ** 2).sum())) for k in range(len(words))]
            found[:, r] = np.array(column) / np.sum(column)
    return found


@pytest.mark.parametrize("words_ask", [True, False])
def test_attention(words_ask: bool) -> None:
    random = np.random.RandomState(0)
    regions, words = random.randn(9, 5), random.randn(4, 5)
    found = word_weights(torch.from_numpy(regions), torch.from_numpy(words), 7.0, words_ask=words_ask).numpy()
    np.testing.assert_allclose(found, slow_weights(regions, words, 7.0, words_ask), rtol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1 if words_ask else 0), 1)


def test_ranking() -> None:
    scores = np.array([[0.1, 0.9, 0.5, 0.5, 0.2, 0.3]])
    found = rank(scores, np.array([[False, False, False, True, False, False]]))
    assert found.best.tolist() == [[1, 2, 3, 5, 4]] and found.scores[0, 0] == 0.9
    assert found.first_right.tolist() == [3], "of equal scores the earlier comes first"


def test_extremes_break_ties_by_the_signal() -> None:
    probability, rank_of_signal = np.array([0.0, 0.0, 1.0, 1.0, 0.5]), np.array([3.0, 4.0, 1.0, 0.0, 2.0])
    found = extremes(probability, rank_of_signal, 2)
    assert found["doubted"].tolist() == [1, 0] and found["trusted"].tolist() == [3, 2]
    among = extremes(probability, rank_of_signal, 2, np.array([True, False, False, False, True]))
    assert among["doubted"].tolist() == [0, 4] and among["trusted"].tolist() == [4, 0]


def test_epochs_that_are_drawn() -> None:
    assert chosen_epochs([2, 3, 4]) == [2, 3, 4]
    assert chosen_epochs(list(range(10, 51)), 5) == [10, 20, 30, 40, 50]


def division(signal: list[float], is_clean: list[bool]) -> StoredDivision:
    values = np.array(signal)
    return StoredDivision(3, "A", values, 1 - values, np.array(is_clean))


def test_where_the_sides_part() -> None:
    assert threshold(division([0.1, 0.2, 0.6], [True, True, False])) == pytest.approx(0.4)
    assert threshold(division([0.1, 0.7, 0.6], [True, True, False])) is None, "no single place"
    assert threshold(division([0.1, 0.2], [True, True])) is None
