"""DSDMR's filter (TOIS 2024): the similarities of the given pairs as two Gaussian modes, of which one is noisy.

*Published*: cosine of each given pair -> two-component Gaussian mixture -> drop the noisy mode -> train on the rest,
filter again. *Ours*: the fit's starts and tolerances, the guards against splitting clean data, the priors, the monotone
posterior. A reconstruction: numbers are not a reproduction. It needs no model of the suite, only similarities.

NCR's fit (mixture.py) takes ten steps from one start and adds a fixed variance, as published. Modes that overlap need
thousands of EM steps: here several starts are followed to convergence, all but the last steps on weighted groups of
neighbouring pairs, and steps are extrapolated (SQUAREM, scheme S3; Varadhan and Roland, Scandinavian Journal of
Statistics 2008).
Legend: n pairs, s_i the similarity of pair i, x similarities of mean 0 and variance 1; a mode has weight w, mean m,
deviation sd; r is a pair's share in the first mode.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.blocks.mixture import NormalMixture, sigmoid
from runtime.errors import InputError
from runtime.flags import check_range, flag

PRIORS = ("equal", "fitted")
"""`--mode_prior`, besides numbers."""
MIN_PAIRS = 10
MIN_WEIGHT, MIN_MODE_PAIRS = 0.01, 3
"""A mode holds at least this share and number of the pairs."""
MIN_SEPARATION = 1.82
"""Measured d' of one mode of 30,000: beta(5, 2) 1.71-1.78, beta(20, 4) 1.45, exponential 1.66, lognormal(0.5) 1.52,
Gumbel 1.42, Student t(5) 0.03 (triangular 2.1 and uniform 3.0 are split); of mixtures of true d' 2.0: 1.84-2.2 at 20 to
80 % noise. Of fewer than 1,000 pairs beta(5, 2) reaches 2.0 and more: hence the (1 + 2 / sqrt(n)) of the guard."""
LARGEST = 1e100
"""Scores beyond this have no variance in float64."""
EXTRA_VARIANCE = 1e-6
"""Added to each mode's variance, in units of the variance of all pairs: a mode on equal values stays finite."""
GROUPS = 8192
"""The starts see the sorted pairs in at most so many groups of neighbours."""
TOLERANCE = 1e-9
"""A fit ends when an EM step changes the mean log-likelihood of a pair by less; it is -1.4 for one Gaussian."""
ROUNDS = 500
"""Rounds of two or three EM steps at most."""


@dataclass(frozen=True)
class ModesConfig:
    """Flags of the filter."""

    mode_starts: int = flag(5, "starts of the fit of the two modes; the likeliest result wins")
    min_separation: float = flag(
        MIN_SEPARATION, "modes closer than so many deviations (d') count as one; 0: only BIC and size decide"
    )
    mode_prior: str = flag(
        "equal", "prior probability of clean: equal (0.5), fitted (the clean mode's weight) or a number between 0 and 1"
    )

    def __post_init__(self) -> None:
        check_range(self, "mode_starts", low=1)
        check_range(self, "min_separation", low=0.0)
        check_prior(self.mode_prior)


@dataclass(frozen=True)
class RefitConfig(ModesConfig):
    """Flags of a filter that is fitted more than once, each time to all pairs, so that dropped ones may return."""

    refit_every: int = flag(1, "epochs between filterings (the first comes before the first epoch, after any warm-up)")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "refit_every", low=1)


def check_prior(prior: str | float) -> float | None:
    """Return the prior probability of clean, None for `fitted`.

    Raises:
        InputError: neither a known name nor a number in (0, 1).
    """
    if prior in PRIORS:
        return 0.5 if prior == "equal" else None
    try:
        number = float(prior)
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        raise InputError(f"--mode_prior {prior!r} is unknown; known: {', '.join(PRIORS)} or a number between 0 and 1")
    return number


@dataclass(frozen=True)
class Mode:
    """One Gaussian: its share of the pairs, mean and standard deviation, in units of the similarity."""

    weight: float
    mean: float
    std: float


@dataclass(frozen=True)
class SimilarityModes:
    """The two modes of n similarities.

    Attributes:
        noisy: mode of lower mean; not split: weight 0, mean and deviation of all pairs.
        clean: mode of higher mean; not split: weight 1, mean and deviation of all pairs.
        is_split: False: the guards found one mode, every pair is kept.
        note: "" or one line for people: why it was not split, or that the fit did not converge.
        separation: d' = (m_c - m_n) / sqrt((sd_c^2 + sd_n^2) / 2) of the two-mode fit, also if not split (*published*).
        overlap: Bhattacharyya coefficient of the two Gaussians without their weights, in [0, 1]; 0 if not split.
        bic_gain: BIC(one mode) - BIC(two modes); positive speaks for two.
        has_converged: the fit reached its tolerance.
        num_pairs: n.
    """

    noisy: Mode
    clean: Mode
    is_split: bool
    note: str
    separation: float
    overlap: float
    bic_gain: float
    has_converged: bool
    num_pairs: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; `from_dict` gives exactly these modes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SimilarityModes:
        """Return the modes that `as_dict` wrote.

        Raises:
            InputError: a field is missing or unknown.
        """
        for kind, given in ((cls, values), (Mode, values.get("noisy")), (Mode, values.get("clean"))):
            wrong = {field.name for field in dataclasses.fields(kind)} ^ set(given if isinstance(given, dict) else ())
            if wrong:
                raise InputError(
                    f"these are no similarity modes; missing or unknown fields: {', '.join(sorted(wrong))}"
                )
        return cls(**{**values, "noisy": Mode(**values["noisy"]), "clean": Mode(**values["clean"])})


def bhattacharyya(a: Mode, b: Mode) -> float:
    """Return the Bhattacharyya coefficient of two Gaussians, in [0, 1]; weights do not count.

    BC = sqrt(2 sd_a sd_b / (sd_a^2 + sd_b^2)) exp(-(m_a - m_b)^2 / (4 (sd_a^2 + sd_b^2))).
    """
    both = a.std**2 + b.std**2
    return math.sqrt(2 * a.std * b.std / both) * math.exp(-((a.mean - b.mean) ** 2) / (4 * both))


def _column(values: np.ndarray | Tensor) -> np.ndarray:
    """Return (n,) float64 on the CPU; the caller's own array if it is that already."""
    if isinstance(values, Tensor):
        values = values.detach().to(device="cpu", dtype=torch.float64).numpy()
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise InputError(f"similarities must be a vector, one number a pair; the shape is {column.shape}")
    return column


def check_similarity(similarity: np.ndarray | Tensor, *, logit_scale: float = 1.0, bounded: bool = True) -> np.ndarray:
    """Return the similarities (n,) in float64 without their logit scale.

    Args:
        similarity: (n,).
        logit_scale: what the cosines were multiplied by (CLIP: about 100).
        bounded: they are cosines, within [-1, 1] but for rounding (1e-6, clipped); False takes any finite scores.

    Raises:
        InputError: not a vector, NaN or infinity (names the first pair), outside [-1, 1].
    """
    if not 0 < logit_scale < math.inf:
        raise InputError(f"--logit_scale {logit_scale} is out of range; it must be above 0 and finite")
    column = _column(similarity)
    if not (is_number := np.isfinite(column)).all():
        bad = int((~is_number).argmax())
        raise InputError(f"similarity of pair {bad} is {column[bad]}: a fit needs finite numbers")
    column = column / logit_scale
    size = np.abs(column)
    if bounded and size.size and size.max() > 1 + 1e-6:
        bad = int((size > 1 + 1e-6).argmax())
        raise InputError(
            f"similarity of pair {bad} is {column[bad]:g}, outside [-1, 1]; if the cosines were multiplied by a scale, "
            "give it as --logit_scale"
        )
    if size.size and size.max() > LARGEST:
        raise InputError(
            f"similarity of pair {int((size > LARGEST).argmax())} is beyond {LARGEST:g}: too large for a fit"
        )
    return np.clip(column, -1.0, 1.0, out=column) if bounded else column


# -- the fit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """Where EM stopped.

    Attributes:
        theta: (5,) the means of both modes, the logarithms of their variances, and log(w_1 / w_2).
        log_likelihood: mean of a pair.
        has_converged: EM reached the tolerance.
    """

    theta: np.ndarray
    log_likelihood: float
    has_converged: bool

    @property
    def weights(self) -> np.ndarray:
        """(2,), of sum 1."""
        return sigmoid(np.array([self.theta[4], -self.theta[4]]))

    def has_enough_pairs(self, num_pairs: int) -> bool:
        """Return whether both modes hold enough of the pairs to count as modes."""
        smaller = float(self.weights.min())
        return smaller >= MIN_WEIGHT and smaller * num_pairs >= MIN_MODE_PAIRS - 0.5  # 2.9 is three


def grouped(x: np.ndarray) -> np.ndarray:
    """Return mass, sum of x and sum of x^2 (3, groups) of neighbours in the sorted x (n,), about equally many."""
    edges = np.linspace(0, len(x), min(len(x), GROUPS), endpoint=False).astype(np.int64)
    mass = np.diff(edges, append=len(x)).astype(np.float64)
    return np.stack([mass, np.add.reduceat(x, edges), np.add.reduceat(x * x, edges)])


def _m_step(first: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return theta of the moments: (3,) sums of r, r x, r x^2, and of 1, x, x^2."""
    mass, sum_x, sum_xx = np.stack([first, total - first], axis=1)
    mass = np.maximum(mass, 1e-10 * total[0])  # of an empty mode only rounding is left
    means = sum_x / mass
    variances = np.maximum(sum_xx / mass - means**2, 0.0) + EXTRA_VARIANCE
    return np.array([*means, *np.log(variances), math.log(mass[0] / mass[1])])


def em_step(theta: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, float]:
    """Return theta after one EM step, and the mean log-likelihood of a pair before it.

    E: r_i = w_1 N(x_i; m_1, v_1) / sum_k w_k N(x_i; m_k, v_k); a group has the share of its mean. M: weight, mean
    and variance of each mode by its shares, plus EXTRA_VARIANCE.
    """
    means, variances, total = theta[:2], np.exp(theta[2:4]), groups.sum(axis=1)
    log_weights = -np.logaddexp(0, [-theta[4], theta[4]])
    constants = log_weights - (np.log(2 * np.pi * variances) + means**2 / variances) / 2
    joint = np.stack([constants, means / variances, -1 / (2 * variances)])  # (3, 2): log(w N) by powers of x
    constant, linear, square = joint[:, 0] - joint[:, 1]
    x = groups[1] / groups[0]
    odds = (x * square + linear) * x + constant
    log_likelihood = (joint[:, 1] @ total + np.logaddexp(0, odds) @ groups[0]) / total[0]  # log joint_2 - log(1 - r)
    return _m_step(groups @ sigmoid(odds), total), float(log_likelihood)


def converged(theta: np.ndarray, groups: np.ndarray) -> Fit:
    """Run EM from theta until a step changes the mean log-likelihood of a pair by less than TOLERANCE."""
    reach = 4.0
    for _ in range(ROUNDS):
        once, before = em_step(theta, groups)
        twice, after = em_step(once, groups)
        if after - before < TOLERANCE:
            return Fit(once, after, True)
        start, step, bend = theta, once - theta, twice - 2 * once + theta
        theta = twice
        if not bend.any():
            continue
        length = min(max(1.0, float(np.linalg.norm(step) / np.linalg.norm(bend))), reach)
        leap = start + 2 * length * step + length**2 * bend
        if np.abs(leap).max() > 30:  # beyond any mode of standardised pairs
            continue
        landed, reached = em_step(leap, groups)
        reach = reach * 2 if reached > after else max(reach / 4, 2.0)
        theta = landed if reached > after else twice
    return Fit(once, after, False)


def starts(groups: np.ndarray, seed: int, number: int) -> Iterator[np.ndarray]:
    """Yield thetas to start from: of the 2-means split, of the lowest and the highest 5 %, then random ones.

    Of 516 samples (one mode, or two of d' 2 to 4 with 3 to 95 % noise) five of these starts missed the likeliest fit of
    21 starts three times; five random ones, or cuts in the middle, 18 to 33 times.
    """
    total, below = groups.sum(axis=1), groups.cumsum(axis=1)[:, :-1]  # moments of the pairs left of each cut
    above = total[:, None] - below
    between = below[1] ** 2 / below[0] + above[1] ** 2 / above[0]
    cuts = [int(between.argmax())]
    for share in (0.05, 0.95):
        cuts.append(min(int(np.searchsorted(below[0], share * total[0])), below.shape[1] - 1))
    for cut in cuts[:number]:
        yield _m_step(below[:, cut], total)
    random = np.random.default_rng(seed)
    for _ in range(number - len(cuts)):
        means = random.choice(groups[1] / groups[0], 2, replace=False)
        yield np.array([*means, *np.log(random.uniform(0.1, 1.0, 2)), 0.0])


def fit_two_gaussians(x: np.ndarray, seed: int, num_starts: int) -> Fit:
    """Return the likeliest two modes of x; if there are any, of those that hold enough pairs.

    Args:
        x: (n,) sorted, standardised, so not all equal; n at least 2.
        seed: of the random starts.
        num_starts: at least 1.
    """
    groups = grouped(x)
    fits = [converged(start, groups) for start in starts(groups, seed, num_starts)]
    best = max(fits, key=lambda fit: (fit.has_enough_pairs(len(x)), fit.log_likelihood))
    return converged(best.theta, np.stack([np.ones_like(x), x, x * x]))


def _one_mode(s: np.ndarray, why: str, **found: Any) -> SimilarityModes:
    """Return s (n,) as one mode that is kept whole."""
    mean, std = float(s.mean()), float(s.std())
    note = f"{why}: one mode, every pair is kept; similarities alone cannot tell all clean from all noisy"
    noisy, clean = Mode(0.0, mean, std), Mode(1.0, mean, std)
    return SimilarityModes(noisy, clean, False, note, overlap=0.0, num_pairs=len(s), **found)


def fit_similarity_modes(
    similarity: np.ndarray | Tensor,
    *,
    seed: int = 0,
    num_starts: int = 5,
    min_separation: float = MIN_SEPARATION,
    bounded: bool = True,
) -> SimilarityModes:
    """Fit two Gaussian modes to the similarities of the given pairs, or find that there is one.

    Args:
        similarity: (n,), at least 10; numpy or torch, in any order.
        seed: of the random starts; the same data and seed give the same bits.
        num_starts: starts of EM, at least 1; the likeliest result wins.
        min_separation: modes with a smaller d' count as one (of few pairs: 1 + 2 / sqrt(n) times that).
        bounded: they are cosines; False takes any finite scores.

    Raises:
        InputError: fewer than 10 pairs, no vector, NaN or infinity (names the first pair), outside [-1, 1].

    Source: two Gaussians published (DSDMR, TOIS 2024); starts, guards and tolerances *ours*.
    """
    s = np.sort(check_similarity(similarity, bounded=bounded))  # sorted: the order of pairs changes no bit
    if len(s) < MIN_PAIRS:
        raise InputError(f"{len(s)} pairs are too few to fit two modes; at least {MIN_PAIRS} are needed")
    center, spread = float(s.mean()), float(s.std())
    if spread <= 1e-12 * max(abs(s[0]), abs(s[-1])):
        return _one_mode(s, f"all similarities are {center:g}", separation=0.0, bic_gain=0.0, has_converged=True)
    fit = fit_two_gaussians((s - center) / spread, seed, num_starts)
    gain = 2 * len(s) * (fit.log_likelihood + (math.log(2 * math.pi) + 1) / 2) - 3 * math.log(len(s))
    means, stds = center + spread * fit.theta[:2], spread * np.exp(fit.theta[2:4] / 2)
    low, high = np.argsort(means, kind="stable").tolist()
    noisy, clean = (Mode(float(fit.weights[k]), float(means[k]), float(stds[k])) for k in (low, high))
    separation = (clean.mean - noisy.mean) / math.sqrt((clean.std**2 + noisy.std**2) / 2)
    found: dict[str, Any] = {"separation": separation, "bic_gain": gain, "has_converged": fit.has_converged}
    needed = min_separation * (1 + 2 / math.sqrt(len(s)))
    if gain <= 0:
        return _one_mode(s, f"two modes explain the similarities no better than one (BIC {gain:.1f})", **found)
    if separation < needed:
        why = f"--min_separation {min_separation:g}, a little more for few pairs"
        return _one_mode(s, f"the modes lie {separation:.2f} deviations apart, less than {needed:.2f} ({why})", **found)
    if not fit.has_enough_pairs(len(s)):
        smaller = min(noisy.weight, clean.weight) * len(s)
        return _one_mode(s, f"one of the modes holds {smaller:.0f} of {len(s)} pairs", **found)
    note = "" if fit.has_converged else f"the fit of the two modes did not converge in {ROUNDS} rounds"
    overlap = bhattacharyya(noisy, clean)
    return SimilarityModes(noisy, clean, True, note, overlap=overlap, num_pairs=len(s), **found)


def clean_posterior(
    similarity: np.ndarray | Tensor, modes: SimilarityModes, prior: str | float = "equal"
) -> np.ndarray:
    """Return P(clean | s_i) = p N(s_i; clean) / (p N(s_i; clean) + (1 - p) N(s_i; noisy)), (n,) float64.

    Non-decreasing in s: where unequal variances turn the odds round, it holds their value at the turn (*ours*).

    Args:
        similarity: (n,) finite, in the units that the modes were fitted in.
        modes: of `fit_similarity_modes`. Not split: every probability is 1.
        prior: p, the probability of clean: `equal` 0.5, `fitted` the clean mode's weight, or a number in (0, 1).

    Raises:
        InputError: an unknown prior; NaN or infinity (names the first pair).
    """
    p = check_prior(prior)
    s = check_similarity(similarity, bounded=False)
    if not modes.is_split:
        return np.ones(len(s))
    p = modes.clean.weight if p is None else p
    m, sd = np.array([modes.clean.mean, modes.noisy.mean]), np.array([modes.clean.std, modes.noisy.std])
    mixture = NormalMixture(-m, sd**2, np.array([p, 1 - p]))  # of the dissimilarity -s: its clean mode is the lower one
    return mixture.monotone_posterior(np.negative(s, out=s))


def select(probability: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return which pairs are kept, (n,) bool: clean probability above the threshold. May be none."""
    return np.asarray(probability) > threshold
