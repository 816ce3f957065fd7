"""Two-component mixtures over a per-pair signal: how probable is it that the pair is clean?

`gmm`: two Gaussians (NCR, NeurIPS 2021). `bmm`: two beta components (Arazo et al., ICML 2019; BiCro, CVPR 2023).
The signal is min-max scaled to [0, 1]; the component of lower mean is the clean one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

BMM_STEPS = 10
BMM_CLIP = 1e-4
TINY = 1e-12


@dataclass(frozen=True)
class BetaMixture:
    """Two beta components: (2,) each, in the order of the fit (`clean` is the index of the one with lower mean)."""

    alphas: np.ndarray
    betas: np.ndarray
    weights: np.ndarray

    @property
    def clean(self) -> int:
        """Index of the component of lower mean."""
        return int(np.argmin(self.alphas / (self.alphas + self.betas)))

    def _log_joint(self, x: np.ndarray) -> np.ndarray:
        """Return log(weight * density), (2, n)."""
        a, b, w = self.alphas[:, None], self.betas[:, None], self.weights[:, None]
        return np.log(w) + special.xlogy(a - 1, x) + special.xlog1py(b - 1, -x) - special.betaln(a, b)

    def posterior(self, x: np.ndarray) -> np.ndarray:
        """Return P(clean | x), (n,), as published: at x = 0 or 1 it may leap, in the tails it may turn round.

        Where the published formula divides infinity by infinity, x is clipped as in the fit.
        """
        clean, noisy = self._published_joint(x)
        with np.errstate(invalid="ignore"):
            p = clean / (clean + noisy + TINY)
        is_undefined = ~np.isfinite(p)
        if is_undefined.any():
            clean, noisy = self._published_joint(np.clip(x[is_undefined], BMM_CLIP, 1 - BMM_CLIP))
            p[is_undefined] = clean / (clean + noisy + TINY)
        return p

    def _published_joint(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(over="ignore"):
            joint = np.exp(self._log_joint(x))
        return joint[self.clean], joint[1 - self.clean]

    def monotone_posterior(self, x: np.ndarray) -> np.ndarray:
        """Return P(clean | x), (n,), non-increasing.

        The log-odds are const + da log x + db log(1 - x), with da, db the differences of the exponents (clean minus
        noisy). They turn round at most once, at x* = da / (da + db): if da and db are both positive the clean
        component's own peak lies at x*, and everything below it is given the value there; if both are negative,
        everything above.
        """
        c, n = self.clean, 1 - self.clean
        da, db = self.alphas[c] - self.alphas[n], self.betas[c] - self.betas[n]
        x = np.clip(x, BMM_CLIP, 1 - BMM_CLIP)
        if da > 0 and db > 0:
            x = np.maximum(x, da / (da + db))
        elif da < 0 and db < 0:
            x = np.minimum(x, da / (da + db))
        log_joint = self._log_joint(x)
        return special.expit(log_joint[c] - log_joint[n])


def fit_bmm(x: np.ndarray) -> BetaMixture:
    """Fit two beta components to x (n,) in [0, 1] by EM, the M-step by weighted moments.

    With mean m and variance v, alpha = m (m (1 - m) / v - 1) and beta = alpha (1 - m) / m. A component left without
    pairs or spread keeps its parameters. Source: Arazo et al. 2019; start and steps as in BiCro.
    """
    x = np.clip(x, BMM_CLIP, 1 - BMM_CLIP)
    powers = np.stack([np.ones_like(x), x, x * x])  # moments of a step are one product with these
    log_x, log_1_x = np.log(x), np.log1p(-x)
    alphas, betas, weights = np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.5, 0.5])
    for _ in range(BMM_STEPS):
        constants = np.log(np.maximum(weights, TINY)) - special.betaln(alphas, betas)
        log_joint = [
            np.maximum(c + (a - 1) * log_x + (b - 1) * log_1_x, np.log(TINY))
            for c, a, b in zip(constants, alphas, betas, strict=True)
        ]
        share = special.expit(log_joint[0] - log_joint[1])
        first = powers @ share
        total = powers.sum(axis=1)
        for k, (mass, sum_x, sum_xx) in enumerate((first, total - first)):
            weights[k] = mass / len(x)
            if mass <= TINY:
                continue
            mean = sum_x / mass
            variance = sum_xx / mass - mean**2
            alpha = mean * (mean * (1 - mean) / variance - 1) if variance > TINY else 0.0
            if alpha > 0:
                alphas[k], betas[k] = alpha, alpha * (1 - mean) / mean
    return BetaMixture(alphas.copy(), betas.copy(), np.maximum(weights, TINY))


def _bmm_probability(x: np.ndarray, monotone: bool) -> np.ndarray:
    mixture = fit_bmm(x)
    return mixture.monotone_posterior(x) if monotone else mixture.posterior(x)


def _gmm_probability(x: np.ndarray, monotone: bool) -> np.ndarray:
    """Fit and read two Gaussians with NCR's settings.

    Unequal variances turn the posterior round at one point, where d/dx of the log-odds is zero; `monotone` gives
    everything beyond it the value there.
    """
    if len(x) < 2:
        return np.ones(len(x))
    mixture = GaussianMixture(n_components=2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten steps are the published number, converged or not
        mixture.fit(x[:, None])
    means, variances = mixture.means_.ravel(), mixture.covariances_.ravel()
    clean = int(np.argmin(means))
    if monotone:
        c, n = clean, 1 - clean
        slope, offset = 1 / variances[n] - 1 / variances[c], means[c] / variances[c] - means[n] / variances[n]
        if slope != 0:
            turn = -offset / slope
            x = np.maximum(x, turn) if slope < 0 else np.minimum(x, turn)
    return mixture.predict_proba(x[:, None])[:, clean]


FITS: dict[str, Callable[[np.ndarray, bool], np.ndarray]] = {"gmm": _gmm_probability, "bmm": _bmm_probability}
"""`--fit_type`: name -> function (scaled signal, monotone) -> probability."""


def min_max(signal: np.ndarray) -> np.ndarray:
    """Scale finite numbers to [0, 1] in float64; all equal numbers become 0."""
    halves = np.asarray(signal, dtype=np.float64) / 2  # halves: max - min of any finite numbers stays finite
    low, high = halves.min(), halves.max()
    return (halves - low) / (high - low) if high > low else np.zeros_like(halves)


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
    signal = np.asarray(signal, dtype=np.float64)
    if signal.ndim != 1:
        raise ValueError(f"the signal must be a vector, one number a pair; it has shape {signal.shape}")
    if fit_type not in FITS:
        raise ValueError(f"fit_type {fit_type!r} is unknown; known: {', '.join(FITS)}")
    if not np.isfinite(signal).all():
        bad = int(np.flatnonzero(~np.isfinite(signal))[0])
        raise ValueError(f"the signal holds NaN or infinity (first at pair {bad}); a mixture needs finite numbers")
    if signal.size == 0 or signal.min() == signal.max():
        return np.ones(len(signal))
    return np.clip(FITS[fit_type](min_max(signal), monotone), 0.0, 1.0)


def divide(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Return which pairs are clean, (n,) bool: probability above the threshold.

    If none would be noisy, the 1 % least probable are (NCR), at least one: the noisy side is never empty by accident.
    """
    is_clean = probability > threshold
    if is_clean.all() and len(probability) > 1:
        is_clean[np.argsort(probability, kind="stable")[: max(1, len(probability) // 100)]] = False
    return is_clean
