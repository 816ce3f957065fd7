"""Two Gaussians by EM, to convergence: several starts, modes as close as they may be, any number of pairs.

NCR's fit (normal.py) takes ten steps from one start and adds a fixed variance, as published. Modes that overlap need
thousands of EM steps: here steps are extrapolated (SQUAREM; Varadhan and Roland, Scandinavian Journal of Statistics
2008, scheme S3), and until the last steps groups of neighbouring pairs stand for the pairs.
Legend: x standardised (mean 0, variance 1), w weight, m mean, v variance of a mode, r a pair's share in the first mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from methods.blocks.chunks import Chunk, add_up, all_moments, in_chunks
from methods.blocks.normal import NormalMixture

EXTRA_VARIANCE = 1e-6
"""Added to each mode's variance, in units of the variance of all pairs: a mode on equal values stays finite."""
GROUPS = 8192
"""The starts see the sorted pairs in at most so many groups of neighbours."""
TOLERANCE = 1e-9
"""A fit ends when an EM step changes the mean log-likelihood of a pair by less; it is -1.4 for one Gaussian."""
ROUNDS = 500
"""Rounds of two or three EM steps at most."""
MIN_WEIGHT, MIN_MODE_PAIRS = 0.01, 3
"""A mode holds at least this share and number of the pairs."""


@dataclass(frozen=True)
class Fit:
    """Where EM stopped: the mixture, the mean log-likelihood of a pair, whether it reached the tolerance."""

    mixture: NormalMixture
    log_likelihood: float
    has_converged: bool

    def has_enough_pairs(self, num_pairs: int) -> bool:
        """Return whether both modes hold enough of the pairs to count as modes."""
        smaller = float(self.mixture.weights.min())
        return smaller >= MIN_WEIGHT and smaller * num_pairs >= MIN_MODE_PAIRS - 0.5  # 2.9 is three


@dataclass(frozen=True)
class Pairs:
    """What EM runs on: chunks of the sorted pairs (x), or of groups of them (mean, mass, sum of x, sum of x^2)."""

    chunks: list[Chunk]
    total: np.ndarray
    """(3,) number of pairs, sum of x, sum of x^2."""

    @classmethod
    def of(cls, x: np.ndarray) -> Pairs:
        """Return all pairs x (n,)."""
        chunks = in_chunks(x)
        return cls(chunks, add_up(chunks, all_moments))

    @classmethod
    def of_groups(cls, groups: np.ndarray) -> Pairs:
        """Return groups (4, groups)."""
        return cls(in_chunks(*groups), groups[1:].sum(axis=1))

    def em_step(self, mixture: NormalMixture) -> tuple[NormalMixture, float]:
        """Return the mixture after one EM step, and the mean log-likelihood before it.

        E: r_i = w_1 N(x_i; m_1, v_1) / sum_k w_k N(x_i; m_k, v_k). M: weight, mean and variance of each mode by its
        shares, plus EXTRA_VARIANCE.
        """

        def sums(x: Tensor, *masses: Tensor) -> list[float]:
            return _group_moments(mixture, x, *masses) if masses else mixture.first_moments(x)

        found = add_up(self.chunks, sums)
        log_likelihood = (mixture.log_joint[1] @ self.total + found[3]) / self.total[0]  # log joint_2 - log(1 - r)
        return _m_step(found[:3], self.total), float(log_likelihood)


def _m_step(first: np.ndarray, total: np.ndarray) -> NormalMixture:
    """Return the mixture of these moments.

    Args:
        first: (3,) sums of r, r x, r x^2.
        total: (3,) sums of 1, x, x^2.
    """
    mass, sum_x, sum_xx = np.stack([first, total - first], axis=1)
    mass = np.maximum(mass, 1e-10 * total[0])  # of an empty mode only rounding is left
    means = sum_x / mass
    variances = np.maximum(sum_xx / mass - means**2, 0.0) + EXTRA_VARIANCE
    return NormalMixture(means, variances, mass / mass.sum())


def _group_moments(mixture: NormalMixture, mean: Tensor, *masses: Tensor) -> list[float]:
    """Return what `first_moments` does, of groups whose pairs have the share that their mean has."""
    odds = mixture.log_odds(mean, 0)
    minus_log_rest = float((F.softplus(odds) * masses[0]).sum())
    share = odds.sigmoid_()
    return [*(float((share * mass).sum()) for mass in masses), minus_log_rest]


def _as_vector(mixture: NormalMixture) -> np.ndarray:
    w = mixture.weights
    return np.array([*mixture.means, *np.log(mixture.variances), math.log(w[0] / w[1])])


def _extrapolated(steps: tuple[NormalMixture, NormalMixture, NormalMixture], reach: float) -> NormalMixture | None:
    """Return the mixture that three successive ones point to, at most `reach` steps on; None if they point nowhere."""
    a, b, c = (_as_vector(mixture) for mixture in steps)
    step, bend = b - a, (c - b) - (b - a)
    if not bend.any():
        return None
    length = min(max(1.0, float(np.linalg.norm(step) / np.linalg.norm(bend))), reach)
    found = a + 2 * length * step + length**2 * bend
    if np.abs(found).max() > 30:  # beyond any mode of standardised pairs
        return None
    odds = math.exp(found[4])
    weights = np.array([odds / (1 + odds), 1 / (1 + odds)])
    return NormalMixture(found[:2], np.maximum(np.exp(found[2:4]), EXTRA_VARIANCE), weights)


def converged(start: NormalMixture, pairs: Pairs) -> Fit:
    """Run EM from a start until a step changes the mean log-likelihood of a pair by less than TOLERANCE."""
    reach = 4.0
    for _ in range(ROUNDS):
        once, before = pairs.em_step(start)
        twice, after = pairs.em_step(once)
        if after - before < TOLERANCE:
            return Fit(once, after, True)
        leap = _extrapolated((start, once, twice), reach)
        start = twice
        if leap is not None:
            landed, reached = pairs.em_step(leap)
            reach = reach * 2 if reached > after else max(reach / 4, 2.0)
            start = landed if reached > after else twice
    return Fit(once, after, False)


def _grouped(x: np.ndarray) -> np.ndarray:
    """Return mean, mass, sum of x and sum of x^2 (4, groups) of neighbours in the sorted x (n,), about equally many."""
    edges = np.linspace(0, len(x), min(len(x), GROUPS), endpoint=False).astype(np.int64)
    mass = np.diff(edges, append=len(x)).astype(np.float64)
    sum_x, sum_xx = np.add.reduceat(x, edges), np.add.reduceat(x * x, edges)
    return np.stack([sum_x / mass, mass, sum_x, sum_xx])


def _starts(groups: np.ndarray, seed: int, number: int) -> Iterator[NormalMixture]:
    """Yield mixtures to start from: of the 2-means split, of the lowest and the highest 5 %, then random ones.

    Of 516 samples (one mode, or two of d' 2 to 4 with 3 to 95 % noise) five of these starts missed the likeliest fit of
    21 starts three times; five random ones, or cuts in the middle, 18 to 33 times.

    Args:
        groups: (4, groups) of `_grouped`.
        seed: of the random ones.
        number: how many.
    """
    total = groups[1:].sum(axis=1)
    below = groups[1:].cumsum(axis=1)[:, :-1]  # (3, groups - 1): moments of the pairs left of each cut
    above = total[:, None] - below
    between = below[1] ** 2 / below[0] + above[1] ** 2 / above[0]
    cuts = [int(between.argmax())]
    for share in (0.05, 0.95):
        cuts.append(min(int(np.searchsorted(below[0], share * total[0])), below.shape[1] - 1))
    for cut in cuts[:number]:
        yield _m_step(below[:, cut], total)
    random = np.random.default_rng(seed)
    for _ in range(number - len(cuts)):
        means = random.choice(groups[0], 2, replace=False)
        yield NormalMixture(means, random.uniform(0.1, 1.0, 2), np.array([0.5, 0.5]))


def fit_two_gaussians(x: np.ndarray, seed: int, num_starts: int) -> Fit:
    """Return the likeliest two modes of x; if there are any, of those that hold enough pairs.

    Args:
        x: (n,) sorted, standardised, so not all equal; n at least 2.
        seed: of the random starts.
        num_starts: at least 1.
    """
    groups = _grouped(x)
    fits = [converged(start, Pairs.of_groups(groups)) for start in _starts(groups, seed, num_starts)]
    best = max(fits, key=lambda fit: (fit.has_enough_pairs(len(x)), fit.log_likelihood))
    return converged(best.mixture, Pairs.of(x))
