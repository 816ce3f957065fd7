"""Two-component mixtures over a per-pair signal: how probable is it that the pair is clean?

`gmm`: two Gaussians (NCR, NeurIPS 2021). `bmm`: two beta components (Arazo et al., ICML 2019; BiCro, CVPR 2023).
The signal is min-max scaled to [0, 1]; the component of lower mean is the clean one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from methods.blocks.beta import BetaMixture, fit_bmm
from methods.blocks.normal import NormalMixture, fit_gmm

Fit = Callable[[np.ndarray], BetaMixture | NormalMixture]
FITS: dict[str, Fit] = {"gmm": fit_gmm, "bmm": fit_bmm}
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
