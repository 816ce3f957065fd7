"""DSDMR's filter (TOIS 2024): the similarities of the given pairs as two Gaussian modes, of which one is noisy.

*Published*: cosine of each given pair -> two-component Gaussian mixture -> drop the noisy mode -> train on the rest,
filter again. *Ours*: the fit's starts and tolerances, the guards against splitting clean data, the priors, the monotone
posterior. A reconstruction: numbers are not a reproduction. It needs no model of the suite, only paired embeddings or
similarities. Legend: n pairs, D embed size, s_i the similarity of pair i; modes have weight w, mean m, deviation sd.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.blocks.gaussian_modes import ROUNDS, fit_two_gaussians
from methods.blocks.modes import Mode, SimilarityModes, bhattacharyya
from methods.blocks.normal import NormalMixture
from runtime.errors import InputError
from runtime.flags import check_range, flag

PRIORS = ("equal", "fitted")
"""`--mode_prior`, besides numbers."""
MIN_PAIRS = 10
MIN_SEPARATION = 1.82
"""Measured d' of one mode of 30,000: beta(5, 2) 1.71-1.78, beta(20, 4) 1.45, exponential 1.66, lognormal(0.5) 1.52,
Gumbel 1.42, Student t(5) 0.03 (triangular 2.1 and uniform 3.0 are split); of mixtures of true d' 2.0: 1.84-2.2 at 20 to
80 % noise. Of fewer than 1,000 pairs beta(5, 2) reaches 2.0 and more: hence the (1 + 2 / sqrt(n)) of the guard."""
ROW_CHUNK = 2**20
"""Numbers of one side's embeddings that are float64 at a time."""
LARGEST = 1e100
"""Scores beyond this have no variance in float64."""


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


def _column(values: np.ndarray | Tensor) -> np.ndarray:
    """Return (n,) float64 on the CPU; the caller's own array if it is that already."""
    if isinstance(values, Tensor):
        values = values.detach().to(device="cpu", dtype=torch.float64).numpy()
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise InputError(f"similarities must be a vector, one number a pair; the shape is {column.shape}")
    return column


def _first(is_bad: np.ndarray) -> int:
    return int(np.flatnonzero(is_bad)[0])


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
        bad = _first(~is_number)
        raise InputError(f"similarity of pair {bad} is {column[bad]}: a fit needs finite numbers")
    column = column / logit_scale
    size = np.abs(column)
    if bounded and size.size and size.max() > 1 + 1e-6:
        bad = _first(size > 1 + 1e-6)
        raise InputError(
            f"similarity of pair {bad} is {column[bad]:g}, outside [-1, 1]; if the cosines were multiplied by a scale, "
            "give it as --logit_scale"
        )
    if size.size and size.max() > LARGEST:
        raise InputError(f"similarity of pair {_first(size > LARGEST)} is beyond {LARGEST:g}: too large for a fit")
    return np.clip(column, -1.0, 1.0, out=column) if bounded else column


def _row_chunks(side: Any, name: str, rows: int, *, start: int = 0) -> Iterator[np.ndarray]:
    """Yield float64 rows of length 1, some at a time."""
    while start < side.shape[0]:
        part = side[start : start + rows]
        if isinstance(part, Tensor):
            part = part.detach().to(device="cpu", dtype=torch.float64).numpy()
        part = np.array(part, dtype=np.float64)
        peak = np.abs(part).max(axis=1, initial=0.0)
        if not np.isfinite(peak).all():
            raise InputError(f"{name} embedding {start + _first(~np.isfinite(peak))} holds NaN or infinity")
        if not peak.all():
            raise InputError(f"{name} embedding {start + _first(peak == 0)} is zero: it has no cosine; drop the pair")
        part /= peak[:, None]  # squares of very long or short vectors would overflow or vanish
        part /= np.sqrt(np.einsum("nd,nd->n", part, part))[:, None]
        yield part
        start += rows


def pair_similarity(images: Any, captions: Any) -> np.ndarray:
    """Return the cosine of each given pair: s_i = <f_i, g_i> / (|f_i| |g_i|) (*published*).

    Args:
        images: (n, D) numpy (memory maps too), torch, or anything with a shape whose rows can be sliced (HDF5).
        captions: (n, D) likewise.

    Returns:
        (n,) float64 in [-1, 1]. A logit scale does not matter.

    Raises:
        InputError: other counts, widths or dimensions; a zero vector, NaN or infinity (names the row).
    """
    shapes = tuple(images.shape), tuple(captions.shape)
    if len(shapes[0]) != 2 or len(shapes[1]) != 2:
        raise InputError(f"embeddings must be (pairs, dimensions); the shapes are {shapes[0]} and {shapes[1]}")
    if shapes[0][0] != shapes[1][0]:
        raise InputError(
            f"{shapes[0][0]} image embeddings and {shapes[1][0]} caption embeddings: row i is pair i of both"
        )
    if shapes[0][1] != shapes[1][1]:
        raise InputError(f"image embeddings have {shapes[0][1]} dimensions, caption embeddings {shapes[1][1]}")
    rows = max(1, ROW_CHUNK // max(1, shapes[0][1]))
    pairs = zip(_row_chunks(images, "image", rows), _row_chunks(captions, "caption", rows), strict=True)
    parts = [np.einsum("nd,nd->n", image, caption) for image, caption in pairs]
    return np.clip(np.concatenate([np.empty(0), *parts]), -1.0, 1.0)


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
    means, stds = center + spread * fit.mixture.means, spread * np.sqrt(fit.mixture.variances)
    low, high = np.argsort(means, kind="stable").tolist()
    noisy, clean = (Mode(float(fit.mixture.weights[k]), float(means[k]), float(stds[k])) for k in (low, high))
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
