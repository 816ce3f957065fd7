"""Two Gaussian components, fitted by EM with NCR's settings (NeurIPS 2021).

The fit is scikit-learn's GaussianMixture number by number; that one is made for many dimensions and takes ten seconds
and gigabytes for ten million pairs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from methods.blocks.chunks import add_up, all_moments, chunkwise, in_chunks, moments

GMM_STEPS = 10
GMM_TOLERANCE = 1e-2
GMM_EXTRA_VARIANCE = 5e-4


@dataclass(frozen=True)
class NormalMixture:
    """Two Gaussian components: (2,) each."""

    means: np.ndarray
    variances: np.ndarray
    weights: np.ndarray

    @classmethod
    def of_moments(cls, first: np.ndarray, total: np.ndarray) -> NormalMixture:
        """Return the mixture of these moments: the M-step, with scikit-learn's guard against an empty component."""
        mass, sum_x, sum_xx = np.stack([first, np.maximum(total - first, 0.0)], axis=1)
        guarded = mass + 10 * np.finfo(np.float64).eps
        means = sum_x / guarded
        variances = np.maximum(sum_xx - 2 * means * sum_x + means**2 * mass, 0.0) / guarded
        return cls(means, variances + GMM_EXTRA_VARIANCE, guarded / guarded.sum())

    @property
    def clean(self) -> int:
        """Index of the component of lower mean."""
        return int(np.argmin(self.means))

    @property
    def log_joint(self) -> np.ndarray:
        """log(weight * density) of each component as coefficients of 1, x and x^2, (2, 3)."""
        m, v = self.means, self.variances
        constants = np.log(self.weights) - (np.log(2 * np.pi * v) + m**2 / v) / 2
        return np.stack([constants, m / v, -1 / (2 * v)], axis=1)

    def density(self, x: np.ndarray) -> np.ndarray:
        """Return weight * density at x (n,), (2, n): clean, noisy."""
        powers = np.stack([np.ones_like(x), x, x**2])
        return np.exp(self.log_joint[[self.clean, 1 - self.clean]] @ powers)

    def log_odds(self, x: Tensor, component: int) -> Tensor:
        """Return the log-odds of a component, at x."""
        joint = self.log_joint
        constant, linear, square = (joint[component] - joint[1 - component]).tolist()
        return (x * square).add_(linear).mul_(x).add_(constant)

    def first_moments(self, x: Tensor) -> list[float]:
        """Return the sums of r, r x, r x^2 for the first component (the E-step) and of -log(1 - r)."""
        odds = self.log_odds(x, 0)
        minus_log_rest = float(F.softplus(odds).sum())
        return [*moments(odds.sigmoid_(), x), minus_log_rest]

    def posterior(self, x: np.ndarray) -> np.ndarray:
        """Return P(clean | x), (n,), as published: unequal variances turn it round at one point."""
        return chunkwise(lambda values: self.log_odds(values, self.clean).sigmoid_(), x)

    def monotone_posterior(self, x: np.ndarray) -> np.ndarray:
        """Return P(clean | x), (n,), non-increasing: where the log-odds have turned round, the value at the turn."""
        c, n = self.clean, 1 - self.clean
        _, linear, square = self.log_joint[c] - self.log_joint[n]
        low, high = -np.inf, np.inf
        if square != 0:
            turn = -linear / (2 * square)
            low, high = (turn, high) if square < 0 else (low, turn)
        return chunkwise(lambda values: self.log_odds(values.clamp(low, high), c).sigmoid_(), x)


def fit_gmm(x: np.ndarray) -> NormalMixture:
    """Fit two Gaussians to x (n,) in [0, 1] by EM with NCR's settings.

    As scikit-learn's GaussianMixture does: start from k-means with seed 0, stop once the mean log density changes by
    less than the tolerance.
    """
    from sklearn.cluster import KMeans  # here: it takes long to load
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(n_clusters=2, n_init=1, random_state=0).fit(x[:, None]).labels_
    first = add_up(in_chunks(x, labels), lambda values, label: moments((label == 0).to(values.dtype), values))
    chunks = in_chunks(x)
    total = add_up(chunks, all_moments)
    mixture = NormalMixture.of_moments(first, total)
    previous = -np.inf
    for _ in range(GMM_STEPS):
        sums = add_up(chunks, mixture.first_moments)
        log_density = (mixture.log_joint[1] @ total + sums[3]) / len(x)  # log p(x) = log joint_1(x) - log(1 - r)
        mixture = NormalMixture.of_moments(sums[:3], total)
        if abs(log_density - previous) < GMM_TOLERANCE:
            break
        previous = log_density
    return mixture
