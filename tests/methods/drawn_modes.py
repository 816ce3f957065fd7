"""Similarities of made-up pairs: known mixtures of two modes, and single ones."""

from __future__ import annotations

import math

import numpy as np

from methods.blocks.modes import SimilarityModes

NOISY, CLEAN = (0.169, 0.041), (0.313, 0.035)
"""Mean and deviation of the modes of Flickr30K before training (DSDMR, Figure 4)."""


def mixture(
    noise: float,
    size: int = 30_000,
    seed: int = 0,
    noisy: tuple[float, float] = NOISY,
    clean: tuple[float, float] = CLEAN,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw similarities of two modes, and which pairs are noisy."""
    random = np.random.default_rng(seed)
    is_noisy = random.random(size) < noise
    return np.where(is_noisy, random.normal(*noisy, size), random.normal(*clean, size)), is_noisy


def apart(separation: float, noise: float, ratio: float, seed: int = 0, size: int = 30_000) -> np.ndarray:
    """Draw a mixture of a true d', the noisy mode `ratio` times as broad as the clean one."""
    gap = separation * 0.04 * math.sqrt((1 + ratio**2) / 2)
    return mixture(noise, size, seed, (0.3 - gap, 0.04 * ratio), (0.3, 0.04))[0]


def one_mode(name: str, size: int, seed: int = 0) -> np.ndarray:
    """Draw similarities of one mode, many of them skewed."""
    random = np.random.default_rng(seed)
    draws = {
        "normal": lambda: random.normal(0.3, 0.04, size),
        "beta(5, 2)": lambda: random.beta(5, 2, size),
        "beta(20, 4)": lambda: random.beta(20, 4, size),
        "Student t(5)": lambda: 0.3 + 0.02 * random.standard_t(5, size),
        "lognormal": lambda: 1 - 0.1 * random.lognormal(0, 0.5, size),
        "Gumbel": lambda: 0.5 - 0.04 * random.gumbel(0, 1, size),
        "exponential": lambda: 0.9 - 0.05 * random.exponential(1, size),
    }
    return np.clip(draws[name](), -1, 1)


SINGLE = ("normal", "beta(5, 2)", "beta(20, 4)", "Student t(5)", "lognormal", "Gumbel", "exponential")


def parameters(modes: SimilarityModes) -> list[float]:
    """Return all parameters of the two modes."""
    return [*vars(modes.noisy).values(), *vars(modes.clean).values()]


def standardised(similarity: np.ndarray) -> np.ndarray:
    """Return what the fit sees."""
    return (np.sort(similarity) - similarity.mean()) / similarity.std()
