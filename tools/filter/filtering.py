"""The filter as one step: similarities in; modes, clean probabilities and the pairs that are kept out.

Legend: n pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from methods.blocks.similarity_modes import (
    ModesConfig,
    SimilarityModes,
    clean_posterior,
    fit_similarity_modes,
    select,
)
from runtime.errors import InputError
from runtime.flags import check_range, flag


@dataclass(frozen=True)
class FilterConfig(ModesConfig):
    """Flags of the filter."""

    p_threshold: float = flag(0.5, "keep pairs whose clean probability is above this")
    seed: int = flag(0, "seed of the fit's random starts, the held-out pairs and the adapter")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "p_threshold", low=0.0, high=1.0, high_open=True)
        check_range(self, "seed", low=0)


@dataclass(frozen=True)
class Filtered:
    """What the filter found.

    Attributes:
        modes: of the similarities.
        probability: (n,) clean probability.
        is_clean: (n,) bool, the pairs that are kept; at least one.
    """

    modes: SimilarityModes
    probability: np.ndarray
    is_clean: np.ndarray


def filter_pairs(similarity: np.ndarray, config: FilterConfig) -> Filtered:
    """Fit the modes and select the clean pairs.

    Args:
        similarity: (n,) cosines.
        config: the filter's flags.

    Raises:
        InputError: fewer than 10 pairs, NaN, outside [-1, 1]; or no pair passes the threshold.
    """
    modes = fit_similarity_modes(
        similarity, seed=config.seed, num_starts=config.mode_starts, min_separation=config.min_separation
    )
    probability = clean_posterior(similarity, modes, config.mode_prior)
    is_clean = select(probability, config.p_threshold)
    if not is_clean.any():
        raise InputError(
            f"no pair is kept: the largest clean probability is {probability.max():.3g}; lower --p_threshold "
            f"{config.p_threshold:g}"
        )
    return Filtered(modes, probability, is_clean)


def filter_quality(is_clean: np.ndarray, probability: np.ndarray, is_matched: np.ndarray) -> dict[str, Any]:
    """Return how well a filter did, by name, shares in [0, 1]; None where it is undefined.

    Args:
        is_clean: (n,) bool, the pairs that were kept.
        probability: (n,) clean probability.
        is_matched: (n,) bool, the truth.

    Returns:
        noise: share of mismatched pairs; residual_noise: the same among the kept; precision: 1 - residual_noise;
        recall: share of the matched pairs that were kept; auc: of the clean probability.
    """
    hits, num_kept, num_matched = int((is_clean & is_matched).sum()), int(is_clean.sum()), int(is_matched.sum())
    has_both = 0 < num_matched < len(is_matched)
    return {
        "noise": 1 - num_matched / len(is_matched),
        "residual_noise": (num_kept - hits) / num_kept if num_kept else None,
        "precision": hits / num_kept if num_kept else None,
        "recall": hits / num_matched if num_matched else None,
        "auc": float(roc_auc_score(is_matched, probability)) if has_both else None,
    }
