"""What an epoch trains on: the given pairs that a division calls clean, those it calls noisy, and new ones it offers.

Legend: N given pairs, M offered ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_utils.precomputed import PrecomputedSplit
from training.division import Division


@dataclass(frozen=True)
class EpochPairs:
    """Pairs to train on.

    Attributes:
        split: given pairs 0 .. N - 1, offered ones behind them.
        clean, noisy: numbers of the pairs of either side; offers are on the clean one.
        probability: (N + M,) float32, clean probability of given pairs, confidence of offered ones.
        caption: (N + M,) the caption of each pair.
    """

    split: PrecomputedSplit
    clean: np.ndarray
    noisy: np.ndarray
    probability: Tensor
    caption: np.ndarray


def epoch_pairs(split: PrecomputedSplit, division: Division | None) -> EpochPairs:
    """Return what a division says is to be trained on; without one all pairs are clean."""
    if division is None:
        everything = np.arange(len(split))
        return EpochPairs(split, everything, everything[:0], torch.ones(len(split)), everything)
    is_clean, probability, offers = division.is_clean, division.probability, division.offers
    caption = np.arange(len(split))
    if offers is not None and len(offers):
        caption = np.concatenate([caption, offers.caption])
        split = split.with_pairs(caption, np.concatenate([split.image_of_pair, offers.image]))
        is_clean = np.concatenate([is_clean, np.ones(len(offers), dtype=bool)])
        probability = np.concatenate([probability, offers.confidence])
    sides = np.flatnonzero(is_clean), np.flatnonzero(~is_clean)
    return EpochPairs(split, *sides, torch.from_numpy(probability).float(), caption)
