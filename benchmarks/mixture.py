"""How long do the mixtures take: the published formulation against ours, alternately in one process.

    python -m benchmarks.mixture --sizes 145000,10000000 --repeats 5 --json mixture.json

Published: beta densities of scipy, responsibilities, weighted means and variances anew in each of ten steps (Arazo et
al., ICML 2019, as BiCro uses it), and scikit-learn's GaussianMixture (NCR). Both sides get the same losses of two
overlapping modes and end with the published posterior; the last column is the largest difference of a probability.
From a million pairs on the published side is timed once, and ours is the median of all repeats.
"""

from __future__ import annotations

import statistics
import timeit
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from benchmarks.measure import Results, Row, check_target, compare, result_rows, write_rows
from methods.blocks.mixture import FITS, clean_probability
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace

STEPS = 10
CLIP = 1e-4
TINY = 1e-12
LARGE = 1_000_000
"""From so many pairs on the published side is timed once; ours as often as asked."""


@dataclass(frozen=True)
class MixtureConfig:
    """Flags of this benchmark."""

    sizes: str = flag("145000,10000000", "numbers of pairs, separated by commas")
    monotone: bool = flag(False, "time the non-increasing posterior of training on our side; nothing is compared then")
    repeats: int = flag(5, f"timed repetitions of each side; of the published one 1 from {LARGE:,} pairs on")
    json: str | None = flag(None, "write the rows to this JSON file", metavar="FILE")

    def __post_init__(self) -> None:
        check_range(self, "repeats", low=1)
        check_target(self.json)
        if not all(size.strip().isdecimal() and int(size) >= 2 for size in self.sizes.split(",")):
            raise InputError(f"--sizes {self.sizes!r} must be whole numbers from 2 on, separated by commas")


def two_modes(size: int, seed: int = 0) -> np.ndarray:
    """Return losses (size,) of 60 % matched and 40 % mismatched pairs, between 0 and 3."""
    random = np.random.default_rng(seed)
    is_matched = random.random(size) < 0.6
    return 3 * np.where(is_matched, random.beta(2, 7, size), random.beta(6, 3, size))


def _scaled(loss: np.ndarray) -> np.ndarray:
    return (loss - loss.min()) / (loss.max() - loss.min())


def published_bmm(loss: np.ndarray) -> np.ndarray:
    """Return the posterior (n,) of the component of lower mean, every step anew from the densities."""
    scaled = _scaled(loss)
    x = np.clip(scaled, CLIP, 1 - CLIP)
    alphas, betas, weights = np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.5, 0.5])

    def joint(values: np.ndarray, k: int) -> np.ndarray:
        return weights[k] * stats.beta.pdf(values, alphas[k], betas[k])

    for _ in range(STEPS):
        share = np.maximum([joint(x, 0), joint(x, 1)], TINY)
        share /= share.sum(axis=0)
        for k in range(2):
            mean = np.average(x, weights=share[k])
            variance = np.average((x - mean) ** 2, weights=share[k])
            alphas[k] = mean * (mean * (1 - mean) / variance - 1)
            betas[k] = alphas[k] * (1 - mean) / mean
        weights = share.sum(axis=1) / share.sum()
    clean = int(np.argmin(alphas / (alphas + betas)))
    return joint(scaled, clean) / (joint(scaled, 0) + joint(scaled, 1) + TINY)


def published_gmm(loss: np.ndarray) -> np.ndarray:
    """Return the posterior (n,) of scikit-learn's Gaussian of lower mean."""
    x = _scaled(loss)[:, None]
    mixture = GaussianMixture(n_components=2, max_iter=STEPS, tol=1e-2, reg_covar=5e-4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(x).predict_proba(x)[:, mixture.means_.argmin()]


PUBLISHED: dict[str, Callable[[np.ndarray], np.ndarray]] = {"bmm": published_bmm, "gmm": published_gmm}


def largest_difference(published: Results, ours: Results) -> dict[str, float]:
    """Return the largest difference of a pair's probability."""
    return {"largest difference": float((published["probability"] - ours["probability"]).abs().max())}


def _measure(fit_type: str, size: int, config: MixtureConfig) -> Row:
    loss = two_modes(size)
    is_large = size >= LARGE

    def side(function: Callable[[np.ndarray], np.ndarray]) -> Results:
        return {"probability": torch.from_numpy(function(loss))}

    ours = partial(side, partial(clean_probability, fit_type=fit_type, monotone=config.monotone))
    row = compare(
        f"{fit_type}{' monotone' if config.monotone else ''}, {size:,} pairs",
        partial(side, PUBLISHED[fit_type]),
        ours,
        repeats=1 if is_large else config.repeats,
        device=torch.device("cpu"),
        differences=(lambda published, ours: {}) if config.monotone else largest_difference,
        say=lambda text: None,
    )
    if not is_large:
        return row
    seconds = statistics.median(timeit.repeat(ours, number=1, repeat=config.repeats))
    return replace(row, name=f"{row.name} (published once)", ours_s=seconds, ratio=row.published_s / seconds)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Time both fits at every size and print the table."""
    parser = OneLineParser(prog="python -m benchmarks.mixture", description="Mixtures over a division signal.")
    add_flags(parser, "benchmark", MixtureConfig)
    config = from_namespace(MixtureConfig, parser.parse_args(argv))
    rows = []
    for size in map(int, config.sizes.split(",")):
        for fit_type in FITS:
            rows.append(_measure(fit_type, size, config))
            print(result_rows(rows[-1:]), flush=True)
    if config.json is not None:
        write_rows(config.json, rows)


if __name__ == "__main__":
    main()
