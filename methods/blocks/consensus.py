"""What several signals of a pair say together: each weighed by what it is worth on the data at hand, without truth.

Each signal s is divided by a mixture of its own, as methods do with theirs, and speaks in log-odds l_s; one whose two
components are hardly apart hardly speaks. Its weight is its loading on what all signals share, the first principal
component of their normal scores (so that units and outliers do not matter): a signal that agrees with no other is left
out. The consensus is sum_s w_s l_s, the mean over both networks, and an exponential average over divisions.

A mixture divides clean data too. But what a mismatch looks like is known: captions with images drawn at random. The
share of given pairs that look so is `share_like_random`; networks learn some mismatched pairs by heart, so that it is
rather too low. `tempered` lets no more than TOLERANCE times that share be noisy.
*Ours*. Legend: N pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtri
from scipy.stats import rankdata

from methods.blocks.mixture import clean_probability

SURE = 1e-3
"""No signal is surer of a pair than this."""

TINY = 1e-9


TOLERANCE = 2.0
"""Estimates on the embedded set, after warm-up and three epochs later, of 40 and 60 % mismatched pairs: bounded loss
.36 to .38 and .43 to .48, InfoNCE .24 to .31 and .34 to .41; of 0 %: .003."""


@dataclass(frozen=True)
class Consensus:
    """What signals say together.

    Attributes:
        log_odds: (N,) of clean against noisy; finite.
        weights: each signal's, of sum 1; all 0 if no signal tells pairs apart.
        share_noisy: estimated share of mismatched pairs; 1 where nothing is known.
    """

    log_odds: np.ndarray
    weights: dict[str, float]
    share_noisy: float = 1.0


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Return the normal quantiles of the ranks of (N,); equal values get equal scores."""
    return ndtri((rankdata(values) - 0.5) / len(values))


def loadings(scores: np.ndarray) -> np.ndarray:
    """Return how much of each column (N, S) is what all share: first eigenvector of their correlation, no negative.

    Constant columns have 0.
    """
    spread = scores.std(axis=0)
    alive = np.flatnonzero(spread > 0)
    weights = np.zeros(scores.shape[1])
    if len(alive):
        standard = (scores[:, alive] - scores[:, alive].mean(axis=0)) / spread[alive]
        first = np.linalg.eigh(standard.T @ standard / len(standard))[1][:, -1]
        weights[alive] = (first * np.sign(first.sum() or 1.0)).clip(min=0)
    return weights


def consensus(signals: Mapping[str, np.ndarray], fit_type: str) -> Consensus:
    """Return the consensus of signals (N,) each, high for clean pairs.

    Args:
        signals: finite.
        fit_type: the mixture that divides each signal.

    Raises:
        ValueError: what `clean_probability` raises.
    """
    columns = [np.asarray(values, dtype=np.float64) for values in signals.values()]
    weights = loadings(np.stack([normal_scores(values) for values in columns], axis=1))
    weights = weights / weights.sum() if weights.any() else weights
    total = np.zeros(len(columns[0]))
    for weight, values in zip(weights.tolist(), columns, strict=True):
        if weight:
            probability = clean_probability(-values, fit_type, monotone=True)
            total += weight * logit(probability.clip(SURE, 1 - SURE))
    return Consensus(total, dict(zip(signals, weights.tolist(), strict=True)))


def share_like_random(given: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]) -> float:
    """Return the share of given pairs that look like pairs drawn at random, in [0, 1].

    The signals are added up in units of their deviation; of pairs at random half lie below their median m, so that
    twice the share of given pairs below m is an upper bound of the share that are such pairs.

    Args:
        given: signals (N,) of the given pairs.
        drawn: the same of pairs drawn at random.
    """
    total, other = np.zeros(1), np.zeros(1)
    for name, values in given.items():
        if spread := float(np.std(values)):
            total, other = total + values / spread, other + drawn[name] / spread
    return min(1.0, 2 * float(np.mean(total <= np.median(other))))


def tempered(probability: np.ndarray, share_noisy: float) -> np.ndarray:
    """Return the probabilities (N,) with the odds of all raised alike, until no more than TOLERANCE times `share_noisy`
    of them are below one half."""
    most = TOLERANCE * share_noisy
    if most >= 1:
        return probability
    lowest = float(np.quantile(probability, most, method="higher"))
    if lowest > 0.5:
        return probability
    raised = logit(0.5 + 1e-6) - logit(max(lowest, TINY))  # what equals the lowest is above one half, too
    return expit(logit(probability.clip(TINY, 1 - TINY)) + raised)


def agreed(of_networks: Sequence[np.ndarray], earlier: np.ndarray | None, memory: float) -> np.ndarray:
    """Return the mean of all networks' log-odds (N,), averaged with those of earlier divisions.

    Args:
        of_networks: (N,) each.
        earlier: (N,) what this returned at the last division; None at the first.
        memory: share of `earlier` in the result, in [0, 1).
    """
    now = np.mean(of_networks, axis=0)
    return now if earlier is None else memory * earlier + (1 - memory) * now
