"""DSDMR's filter from time to time: when it is fitted again, and to which pairs.

*Published*: after an epoch of training on what was kept, the filter is fitted again. *Ours*: the pools.
Legend: n pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from methods.blocks.modes import SimilarityModes
from methods.blocks.similarity_modes import ModesConfig, clean_posterior, fit_similarity_modes
from runtime.flags import check_choices, check_range, flag

POOLS = ("full", "cumulative")


@dataclass(frozen=True)
class RefitConfig(ModesConfig):
    """Flags of a filter that is fitted more than once."""

    refit_every: int = flag(1, "epochs between filterings (the first comes before the first epoch, after any warm-up)")
    filter_pool: str = flag(
        "full",
        "pairs that a filtering looks at: full takes all, so that dropped ones may return; cumulative those that every "
        "earlier one has kept",
        choices=POOLS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        check_range(self, "refit_every", low=1)


@dataclass(frozen=True)
class Refit:
    """What a filtering found.

    Attributes:
        modes: fitted to the pool.
        probability: (n,) float64 clean probability, 0 for pairs outside the pool.
    """

    modes: SimilarityModes
    probability: np.ndarray


def refit(
    similarity: np.ndarray, config: RefitConfig, earlier: np.ndarray | None = None, *, bounded: bool = True
) -> Refit:
    """Fit the modes of the pool.

    Args:
        similarity: (n,).
        config: flags.
        earlier: (n,) bool, what the filtering before this one kept; None before the first.
        bounded: similarities are cosines.

    Raises:
        InputError: what `fit_similarity_modes` raises.
    """
    is_in_pool = np.ones(len(similarity), dtype=bool)
    if config.filter_pool == "cumulative" and earlier is not None:
        is_in_pool = earlier
    pool = similarity[is_in_pool]
    modes = fit_similarity_modes(
        pool, num_starts=config.mode_starts, min_separation=config.min_separation, bounded=bounded
    )
    probability = np.zeros(len(similarity))
    probability[is_in_pool] = clean_posterior(pool, modes, config.mode_prior)
    return Refit(modes, probability)
