"""What several signals of a pair say together: each weighed by what it is worth on the data at hand, without truth.

Each signal s is divided by a mixture of its own, as methods do with theirs, and speaks in log-odds l_s; one whose two
components are hardly apart hardly speaks. What a mismatch looks like is known: captions with images drawn at random. A
signal's weight w_s is what it is `worth`: how well it tells the given pairs from such ones. The consensus is
sum_s w_s l_s, the mean over both networks, and an exponential average over divisions.

A mixture divides clean data too. The share of given pairs that look like random ones is `share_like_random`; networks
learn some mismatched pairs by heart, so that it is rather too low. `tempered` lets no more than TOLERANCE times that
share be noisy, that is at or below `--p_threshold`.
*Ours*. Legend: N pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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


def worth(given: np.ndarray, drawn: np.ndarray) -> float:
    """Return how well a signal tells given pairs from pairs drawn at random: 2 AUC - 1, in [0, 1], negative ones 0.

    Args:
        given, drawn: the signal (N,) and (M,), high for clean pairs.
    """
    from scipy.stats import rankdata  # here: it takes long to load

    ranks = rankdata(np.concatenate([given, drawn]))[: len(given)]
    area = (ranks.mean() - (len(given) + 1) / 2) / len(drawn)
    return float(max(0.0, 2 * area - 1))


def consensus(signals: Mapping[str, np.ndarray], worths: Mapping[str, float], fit_type: str) -> Consensus:
    """Return the consensus of signals (N,) each, high for clean pairs.

    Args:
        signals: finite.
        worths: what each is worth, at least 0.
        fit_type: the mixture that divides each signal.

    Raises:
        ValueError: what `clean_probability` raises.
    """
    from scipy.special import logit  # here: it takes long to load

    total = sum(worths[name] for name in signals)
    weights = {name: worths[name] / total if total > 0 else 0.0 for name in signals}
    log_odds = np.zeros(len(next(iter(signals.values()))))
    for name, values in signals.items():
        if weights[name]:
            probability = clean_probability(-np.asarray(values, dtype=np.float64), fit_type, monotone=True)
            log_odds += weights[name] * logit(probability.clip(SURE, 1 - SURE))
    return Consensus(log_odds, weights)


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


def tempered(probability: np.ndarray, share_noisy: float, threshold: float) -> np.ndarray:
    """Return the probabilities (N,) with the odds of all raised alike, until no more than TOLERANCE times `share_noisy`
    of them are at or below `threshold`, in [0, 1)."""
    from scipy.special import expit, logit  # here: it takes long to load

    most = TOLERANCE * share_noisy
    if most >= 1:
        return probability
    lowest = float(np.quantile(probability, most, method="higher"))
    if lowest > threshold:
        return probability
    just_above = threshold + min(1e-6, (1 - threshold) / 2)  # what equals the lowest is above it, too
    raised = logit(just_above) - logit(max(lowest, TINY))
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
