"""Consensus of signals: it beats its parts, leaves out what agrees with nothing, and is defined for signals that say
nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from methods.blocks.consensus import Consensus, agreed, share_like_random, tempered, worth
from methods.blocks.consensus import consensus as weighed
from methods.blocks.mixture import FITS, clean_probability

CLEAN = np.arange(4000) < 2500


def drawn(shift: float, seed: int, scale: float = 1.0) -> np.ndarray:
    """Return a signal that lies `shift` deviations higher for clean pairs."""
    return scale * (np.random.RandomState(seed).randn(len(CLEAN)) + shift * CLEAN)


SIGNALS = {"pair": drawn(2.5, 0), "near": drawn(2.0, 1, 100.0), "read": drawn(1.5, 2, 0.01)}


SCALES = {"pair": 1.0, "near": 100.0, "read": 0.01, "noise": 1.0, "inverted": 100.0}


def consensus(signals: Mapping[str, np.ndarray], fit_type: str, *, times: float = 1.0, plus: float = 0.0) -> Consensus:
    """Weigh each signal against what it is for pairs drawn at random: as for mismatched ones."""
    random = np.random.RandomState(77).randn(len(CLEAN))
    drawn = {n: v if np.ptp(v) == 0 else times * SCALES[n] * random + plus for n, v in signals.items()}
    worths = {name: worth(values, drawn[name]) for name, values in signals.items()}
    return weighed(signals, worths, fit_type)


@pytest.mark.parametrize("fit_type", FITS)
def test_consensus_tells_pairs_apart_better_than_any_part(fit_type: str) -> None:
    found = consensus(SIGNALS, fit_type)
    alone = max(roc_auc_score(CLEAN, values) for values in SIGNALS.values())
    assert roc_auc_score(CLEAN, found.log_odds) > alone + 0.02
    assert sum(found.weights.values()) == pytest.approx(1.0)
    assert found.weights["pair"] > found.weights["read"] > 0.1


def test_a_signal_that_contradicts_the_others_is_left_out() -> None:
    found = consensus(SIGNALS | {"inverted": -SIGNALS["near"] + drawn(0.0, 5)}, "gmm")
    assert found.weights["inverted"] == 0


def test_units_and_order_do_not_matter() -> None:
    found = consensus(SIGNALS, "gmm")
    scaled = consensus({name: 3 * values + 7 for name, values in SIGNALS.items()}, "gmm", times=3, plus=7)
    np.testing.assert_allclose(scaled.log_odds, found.log_odds, rtol=1e-3, atol=1e-2)
    order = np.random.RandomState(0).permutation(len(CLEAN))
    mixed = consensus({name: values[order] for name, values in SIGNALS.items()}, "gmm")
    np.testing.assert_allclose(mixed.log_odds, found.log_odds[order], rtol=1e-3, atol=1e-2)


def test_log_odds_are_the_weighted_sum() -> None:
    """The twin: logit of each signal's own probability, clipped at 0.001 and 0.999, times its weight."""
    found = consensus(SIGNALS, "gmm")
    for k in (0, 7, 3999):
        total = 0.0
        for name, values in SIGNALS.items():
            p = min(max(float(clean_probability(-values, "gmm", monotone=True)[k]), 1e-3), 1 - 1e-3)
            total += found.weights[name] * math.log(p / (1 - p))
        assert found.log_odds[k] == pytest.approx(total)


@pytest.mark.parametrize("silent", [("near",), ("near", "read"), ("pair", "near", "read")])
def test_constant_signals_say_nothing(silent: tuple[str, ...]) -> None:
    found = consensus({n: np.full(len(CLEAN), 0.3) if n in silent else v for n, v in SIGNALS.items()}, "gmm")
    assert np.isfinite(found.log_odds).all()
    assert all(found.weights[name] == 0 for name in silent)
    if len(silent) == 3:
        assert not found.log_odds.any() and not any(found.weights.values())
    else:
        assert sum(found.weights.values()) == pytest.approx(1.0)


def test_worth_is_twice_the_area_less_one() -> None:
    """Given 1, 3, 3; at random 0, 3: of six comparisons 4 are won and 2 are ties."""
    assert worth(np.array([1.0, 3.0, 3.0]), np.array([0.0, 3.0])) == pytest.approx(2 * (4 - 0 + 0) / 6 - 1)
    assert worth(np.ones(4), np.ones(3)) == pytest.approx(0.0)
    assert worth(np.arange(4.0) - 10, np.arange(3.0)) == 0.0
    assert worth(np.arange(4.0) + 10, np.arange(3.0)) == pytest.approx(1.0)


def test_networks_are_averaged_and_earlier_divisions_remembered() -> None:
    a, b = np.array([1.0, 3.0]), np.array([3.0, 5.0])
    assert agreed([a, b], None, 0.3).tolist() == [2.0, 4.0]
    assert agreed([a, b], np.array([0.0, 14.0]), 0.3).tolist() == pytest.approx([1.4, 7.0])
    assert agreed([a], np.array([9.0, 9.0]), 0.0).tolist() == a.tolist()


def test_pairs_that_look_like_random_ones_are_counted() -> None:
    """Clean pairs lie 4 deviations above random ones: the share of mismatched pairs comes out; of all equal, all."""
    random = np.random.RandomState(3)
    for share in (0.0, 0.2, 0.6):
        is_clean = random.rand(20000) > share
        given = {name: random.randn(20000) + 4 * is_clean for name in ("a", "b")}
        drawn = {name: random.randn(20000) for name in ("a", "b")}
        assert share_like_random(given, drawn) == pytest.approx(share, abs=0.02)
    flat = {"a": np.ones(50)}
    assert share_like_random(flat, flat) == 1.0


def test_clean_data_are_kept_whole() -> None:
    """A mixture splits one mode; where hardly a pair looks like a random one, hardly one may be noisy."""
    probability = clean_probability(drawn(0.0, 4), "gmm", monotone=True)
    assert (probability < 0.5).mean() > 0.1
    for share, threshold in itertools.product((0.0, 0.01, 0.03), (0.0, 0.3, 0.5, 0.9)):
        found = tempered(probability, share, threshold)
        assert (found <= threshold).mean() <= 2 * share
        assert np.isfinite(found).all() and (np.diff(found[np.argsort(probability, kind="stable")]) >= 0).all()
    assert tempered(probability, 0.5, 0.5) is probability
    assert tempered(probability, 1.0, 0.5) is probability


def test_ties_at_the_lowest_probability_are_kept() -> None:
    probability = np.array([0.01] * 30 + [0.9] * 70)
    for threshold in (0.5, 0.8):
        assert (tempered(probability, 0.05, threshold) > threshold).all()
        assert np.array_equal(tempered(probability, 0.2, threshold) > threshold, probability > threshold)
