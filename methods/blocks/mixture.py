"""Two-component mixtures over a per-pair signal: how probable is it that the pair is clean?

`gmm`: two Gaussians (NCR, NeurIPS 2021). `bmm`: two beta components (Arazo et al., ICML 2019; BiCro, CVPR 2023).
The signal is min-max scaled to [0, 1]; the component of lower mean is the clean one. Legend: n pairs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BMM_STEPS = 10
BMM_CLIP = 1e-4
"""The beta mixture sees no number nearer to 0 or 1 than this."""
TINY = 1e-12


def sigmoid(log_odds: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)) without a warning where the exponential is infinite."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-log_odds))


@dataclass(frozen=True)
class NormalMixture:
    """Two Gaussian components: (2,) each."""

    means: np.ndarray
    variances: np.ndarray
    weights: np.ndarray

    @property
    def clean(self) -> int:
        """Index of the component of lower mean."""
        return int(np.argmin(self.means))

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """Return log(weight * density) at x (n,), (2, n): clean, noisy."""
        order = [self.clean, 1 - self.clean]
        m, v, w = self.means[order, None], self.variances[order, None], self.weights[order, None]
        return np.log(w) - (np.log(2 * np.pi * v) + (x - m) ** 2 / v) / 2

    def density(self, x: np.ndarray) -> np.ndarray:
        """Return weight * density at x (n,), (2, n): clean, noisy."""
        return np.exp(self.log_joint(x))

    def posterior(self, x: np.ndarray) -> np.ndarray:
        """Return P(clean | x), (n,), as published: unequal variances turn it round at one point."""
        clean, noisy = self.log_joint(x)
        return sigmoid(clean - noisy)

    def monotone_posterior(self, x: np.ndarray) -> np.ndarray:
        """Return P(clean | x), (n,), non-increasing: where the log-odds have turned round, the value at the turn."""
        c, n = self.clean, 1 - self.clean
        m, v = self.means, self.variances
        linear, square = m[c] / v[c] - m[n] / v[n], 1 / v[n] - 1 / v[c]  # log-odds: square / 2 x^2 + linear x + ...
        if square:
            turn = -linear / square
            x = np.maximum(x, turn) if square < 0 else np.minimum(x, turn)
        return self.posterior(x)


@dataclass(frozen=True)
class BetaMixture:
    """Two beta components: (2,) each, in the order of the fit."""

    alphas: np.ndarray
    betas: np.ndarray
    weights: np.ndarray

    @property
    def clean(self) -> int:
        """Index of the component of lower mean."""
        return int(np.argmin(self.alphas / (self.alphas + self.betas)))

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """Return log(weight * density) at x (n,), (2, n): clean, noisy. Of log 0 it takes the lowest number, so that
        zero times that is zero."""
        lowest = np.finfo(np.float64).min
        with np.errstate(divide="ignore"):
            log_x, log_rest = np.maximum(np.log(x), lowest), np.maximum(np.log1p(-x), lowest)
        parts = []
        for k in (self.clean, 1 - self.clean):
            a, b = float(self.alphas[k]), float(self.betas[k])
            constant = math.log(self.weights[k]) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
            with np.errstate(over="ignore"):
                parts.append((a - 1) * log_x + (b - 1) * log_rest + constant)
        return np.stack(parts)

    def density(self, x: np.ndarray) -> np.ndarray:
        """Return weight * density at x (n,) in [0, 1], (2, n): clean, noisy. At 0 and 1, where it may be infinite,
        that of the nearest number that the fit sees."""
        return np.exp(self.log_joint(np.clip(x, BMM_CLIP, 1 - BMM_CLIP)))

    def posterior(self, x: np.ndarray) -> np.ndarray:
        """Return P(clean | x), (n,), as published: at x = 0 or 1 it may leap, in the tails it may turn round.

        Where the published formula divides infinity by infinity, x is clipped as in the fit.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            clean, noisy = np.exp(self.log_joint(x))
            p = clean / (clean + noisy + TINY)
        if (undefined := np.isnan(p)).any():
            clean, noisy = self.density(x[undefined])
            p[undefined] = clean / (clean + noisy + TINY)
        return p

    def monotone_posterior(self, x: np.ndarray) -> np.ndarray:
        """Return P(clean | x), (n,), non-increasing.

        The log-odds are const + da log x + db log(1 - x), with da, db the differences of the exponents (clean minus
        noisy). They turn round at most once, at x* = da / (da + db): if da and db are both positive the clean
        component's own peak lies at x*, and everything below it is given the value there; if both are negative,
        everything above.
        """
        c, n = self.clean, 1 - self.clean
        da, db = self.alphas[c] - self.alphas[n], self.betas[c] - self.betas[n]
        low, high = BMM_CLIP, 1 - BMM_CLIP
        if da > 0 and db > 0:
            low = max(low, da / (da + db))
        elif da < 0 and db < 0:
            high = min(high, da / (da + db))
        clean, noisy = self.log_joint(np.clip(x, low, high))
        return sigmoid(clean - noisy)

    def refitted(self, share: np.ndarray, x: np.ndarray) -> BetaMixture:
        """Return the mixture after the M-step; a component without pairs or spread keeps its parameters.

        Args:
            share: (2, n) of each pair, in the order of the fit.
            x: (n,).
        """
        alphas, betas, weights = self.alphas.copy(), self.betas.copy(), self.weights.copy()
        for k, r in enumerate(share):
            weights[k] = max(r.mean(), TINY)
            if (mass := r.sum()) <= TINY:
                continue
            mean = (r @ x) / mass
            variance = (r @ (x - mean) ** 2) / mass
            alpha = mean * (mean * (1 - mean) / variance - 1) if variance > TINY else 0.0
            if alpha > 0:
                alphas[k], betas[k] = alpha, alpha * (1 - mean) / mean
        return BetaMixture(alphas, betas, weights)


def fit_gmm(x: np.ndarray) -> NormalMixture:
    """Fit two Gaussians to x (n,) in [0, 1] as NCR does: scikit-learn's GaussianMixture with NCR's settings, seed 0."""
    from sklearn.exceptions import ConvergenceWarning  # here: it takes long to load
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(x[:, None])
    return NormalMixture(fitted.means_.ravel(), fitted.covariances_.ravel(), fitted.weights_)


def fit_bmm(x: np.ndarray) -> BetaMixture:
    """Fit two beta components to x (n,) in [0, 1] by EM, the M-step by weighted moments.

    With mean m and variance v, alpha = m (m (1 - m) / v - 1) and beta = alpha (1 - m) / m. No joint is taken below
    TINY. Source: Arazo et al. 2019; start and steps as in BiCro.
    """
    x = np.clip(x, BMM_CLIP, 1 - BMM_CLIP)
    mixture = BetaMixture(np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.5, 0.5]))
    for _ in range(BMM_STEPS):
        joint = np.maximum(mixture.log_joint(x), math.log(TINY))
        share = sigmoid(joint - joint[::-1])
        mixture = mixture.refitted(share if mixture.clean == 0 else share[::-1], x)
    return mixture


FITS: dict[str, Callable[[np.ndarray], BetaMixture | NormalMixture]] = {"gmm": fit_gmm, "bmm": fit_bmm}
"""`--fit_type`: name -> fit to the scaled signal."""

KINDS: dict[str, type[BetaMixture] | type[NormalMixture]] = {"gmm": NormalMixture, "bmm": BetaMixture}
"""`--fit_type`: name -> what its fit returns."""


@dataclass(frozen=True)
class Fitted:
    """A mixture fitted to a signal, and the range of the signal that was scaled to [0, 1]."""

    fit_type: str
    low: float
    high: float
    mixture: BetaMixture | NormalMixture

    def density(self, signal: np.ndarray) -> np.ndarray:
        """Return weight * density per unit of signal, (2, n): of the clean component, then of the noisy one."""
        width = self.high - self.low
        return self.mixture.density((np.asarray(signal, dtype=np.float64) - self.low) / width) / width

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Return everything by name, for a file."""
        parameters = {f"fitted_{name}": value for name, value in vars(self.mixture).items()}
        return {"fit_type": np.array(self.fit_type), "fitted_range": np.array([self.low, self.high]), **parameters}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Fitted | None:
        """Return what `as_arrays` was made of; None if it is not among the arrays."""
        if "fit_type" not in arrays:
            return None
        kind = KINDS[str(arrays["fit_type"])]
        low, high = arrays["fitted_range"].tolist()
        named = {name: arrays[f"fitted_{name}"] for name in kind.__dataclass_fields__}
        return cls(str(arrays["fit_type"]), low, high, kind(**named))


def min_max(signal: np.ndarray) -> np.ndarray:
    """Scale finite numbers to [0, 1] in float64; all equal numbers become 0."""
    scaled = np.asarray(signal, dtype=np.float64) / 2  # halves: max - min of any finite numbers stays finite
    low, high = scaled.min(), scaled.max()
    if not high > low:
        return np.zeros_like(scaled)
    scaled -= low
    scaled /= high - low
    return scaled


def fit(signal: np.ndarray, fit_type: str = "bmm") -> Fitted | None:
    """Fit a mixture to a signal (n,); None if every number is the same, since nothing then tells the pairs apart.

    Raises:
        ValueError: NaN or infinity in the signal, not a vector, or an unknown fit.
    """
    signal = np.asarray(signal, dtype=np.float64)
    if signal.ndim != 1:
        raise ValueError(f"the signal must be a vector, one number a pair; it has shape {signal.shape}")
    if fit_type not in FITS:
        raise ValueError(f"fit_type {fit_type!r} is unknown; known: {', '.join(FITS)}")
    if not np.isfinite(signal).all():
        bad = int(np.flatnonzero(~np.isfinite(signal))[0])
        raise ValueError(f"the signal holds NaN or infinity (first at pair {bad}); a mixture needs finite numbers")
    if signal.size == 0 or signal.min() == signal.max():
        return None
    return Fitted(fit_type, float(signal.min()), float(signal.max()), FITS[fit_type](min_max(signal)))


def probability_under(fitted: Fitted | None, signal: np.ndarray, *, monotone: bool) -> np.ndarray:
    """Return each pair's probability to be clean, (n,), given the `fit` of the same signal; all 1 without one."""
    if fitted is None:
        return np.ones(len(signal))
    x = min_max(signal)
    return fitted.mixture.monotone_posterior(x) if monotone else fitted.mixture.posterior(x)


def clean_probability(signal: np.ndarray, fit_type: str = "bmm", *, monotone: bool = False) -> np.ndarray:
    """Return each pair's probability to be clean.

    Args:
        signal: (n,) finite numbers, low for clean pairs.
        fit_type: `bmm` or `gmm`.
        monotone: make the probability non-increasing in the signal, as training does. Off, it is the published
            posterior, which may turn round in the tails (a pair of loss exactly 0 can come out as noisy).

    Returns:
        (n,) float64 in [0, 1]; all 1 if every signal is the same, since nothing tells the pairs apart.

    Raises:
        ValueError: NaN or infinity in the signal, not a vector, or an unknown fit.

    Source: NCR section 3.2 (gmm), BiCro section 3.2 (bmm).
    """
    return probability_under(fit(signal, fit_type), signal, monotone=monotone)


def divide(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Return which pairs are clean, (n,) bool: probability above the threshold.

    If none would be noisy, the 1 % least probable are (NCR), at least one: the noisy side is never empty by accident.
    """
    is_clean = probability > threshold
    if is_clean.all() and len(probability) > 1:
        is_clean[np.argsort(probability, kind="stable")[: max(1, len(probability) // 100)]] = False
    return is_clean
