"""DSDMR's filter on CLIP's similarities: keep the pairs of the clean mode, again from time to time. A reconstruction.

*Published*: the cosines of the given pairs, by the pretrained model, are two Gaussian modes; the lower one is dropped;
after an epoch of fine-tuning the filter is fitted again. *Ours*: the pools, and what methods/blocks/similarity_modes.py
marks so. Legend: C pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from methods.blocks.dynamic_margin import MarginConfig
from methods.blocks.modes import SimilarityModes
from methods.blocks.refitting import RefitConfig, refit
from methods.blocks.similarity_modes import pair_similarity, select
from runtime.errors import InputError
from runtime.flags import check_range, flag
from tools.clip_tuning.embedding import Embeddings


@dataclass(frozen=True)
class FilterConfig(RefitConfig, MarginConfig):
    """Flags of the filter and of the margins that follow it."""

    p_threshold: float = flag(0.5, "pairs of a clean probability above this are kept, in [0, 1)")

    def __post_init__(self) -> None:
        RefitConfig.__post_init__(self)
        MarginConfig.__post_init__(self)
        check_range(self, "p_threshold", low=0.0, high=1.0, high_open=True)


@dataclass(frozen=True)
class Filtered:
    """What a filtering found.

    Attributes:
        similarity: (C,) float64 cosines.
        probability: (C,) float64 clean probability, 0 for pairs outside the pool.
        kept: (C,) bool.
        modes: fitted to the pool.
    """

    similarity: np.ndarray
    probability: np.ndarray
    kept: np.ndarray
    modes: SimilarityModes

    def state(self) -> dict[str, Any]:
        """Return tensors and plain types, for a file."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in ("similarity", "probability", "kept")}
        return {**arrays, "modes": self.modes.as_dict()}

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Filtered:
        """Return what `state` wrote."""
        arrays = {name: state[name].numpy() for name in ("similarity", "probability", "kept")}
        return cls(**arrays, modes=SimilarityModes.from_dict(state["modes"]))


@dataclass(frozen=True)
class _Rows:
    """Rows of `values` by `index`, taken when they are sliced: a picture's embedding is not stored once a caption."""

    values: Tensor
    index: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.index), self.values.shape[1]

    def __getitem__(self, rows: slice) -> Tensor:
        return self.values[torch.from_numpy(self.index[rows])]


def similarity_of_pairs(embeddings: Embeddings, image_index: np.ndarray) -> np.ndarray:
    """Return the cosine (C,) float64 of every caption and the picture it is trained with, `image_index` (C,)."""
    return pair_similarity(_Rows(embeddings.pictures, image_index), embeddings.captions)


def filter_pairs(similarity: np.ndarray, config: FilterConfig, earlier: Filtered | None = None) -> Filtered:
    """Fit the modes of the pool and keep its clean pairs.

    Args:
        similarity: (C,).
        config: flags.
        earlier: the filtering before this one; with `--filter_pool cumulative` what it dropped stays dropped.

    Raises:
        InputError: too few pairs to fit, or none kept.
    """
    found = refit(similarity, config, None if earlier is None else earlier.kept)
    kept = select(found.probability, config.p_threshold)
    if not kept.any():
        raise InputError(
            f"the filter keeps no pair: --p_threshold {config.p_threshold:g} is above all clean probabilities"
        )
    return Filtered(similarity, found.probability, kept, found.modes)


def _auc(is_matched: np.ndarray, values: np.ndarray) -> float | None:
    """Return the area under the ROC curve, None where one class is missing."""
    return float(roc_auc_score(is_matched, values)) if 0 < is_matched.sum() < len(is_matched) else None


def filter_metrics(filtered: Filtered, is_matched: np.ndarray | None) -> dict[str, Any]:
    """Return the modes, the share of kept pairs and, where the truth (C,) is known, how good they are.

    Residual noise is the share of mismatched pairs among the kept ones, recall the share of matched pairs kept.
    """
    modes = filtered.modes
    figures: dict[str, Any] = {
        "share_kept": float(filtered.kept.mean()),
        "is_split": modes.is_split,
        "separation": modes.separation,
        "overlap": modes.overlap,
        "bic_gain": modes.bic_gain,
        **{f"noisy_{name}": value for name, value in vars(modes.noisy).items()},
        **{f"clean_{name}": value for name, value in vars(modes.clean).items()},
    }
    if is_matched is not None:
        figures["residual_noise"] = float(1 - is_matched[filtered.kept].mean())
        figures["recall"] = float(filtered.kept[is_matched].mean()) if is_matched.any() else None
        figures["auc"] = _auc(is_matched, filtered.similarity)
    return figures
