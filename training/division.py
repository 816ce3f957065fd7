"""The division of the training pairs into a clean and a noisy side, by one network, and what an epoch trains on then.

Legend: N training pairs, M new ones that a method offers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_utils.precomputed import PrecomputedSplit
from methods.blocks.consensus import agreed, tempered
from methods.blocks.method import DivisionReport, Method
from methods.blocks.rematch import Offers, joint_offers
from training.evidence import PairEvidence


@dataclass(frozen=True)
class Division:
    """What one network thinks of the training pairs.

    Attributes:
        signal: (N,) the method's per-pair signal, low for clean pairs.
        probability: (N,) clean probability.
        is_clean: (N,) bool.
        diagnostics: named (N,) values, high for clean pairs.
        modality_gap: |mean f - mean g|, distance between the mean pooled image and caption vectors.
        findings: what else the method found.
        offers: new pairs to train on, if the method asks for them.
        share_noisy: estimated share of mismatched pairs, if the method asks neighbours.
    """

    signal: np.ndarray
    probability: np.ndarray
    is_clean: np.ndarray
    diagnostics: dict[str, np.ndarray] = field(default_factory=dict)
    modality_gap: float = 0.0
    findings: DivisionReport = field(default_factory=DivisionReport)
    offers: Offers | None = None
    share_noisy: float | None = None

    def as_state(self) -> dict[str, Any]:
        """Return what training and the next division need of it, as tensors."""
        return {
            "signal": torch.from_numpy(self.signal),
            "probability": torch.from_numpy(self.probability),
            "is_clean": torch.from_numpy(self.is_clean),
            "offers": None if self.offers is None else self.offers.as_state(),
            "share_noisy": self.share_noisy,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Division:
        """Return the division of `as_state`."""
        offers = state["offers"]
        return cls(
            state["signal"].numpy(),
            state["probability"].numpy(),
            state["is_clean"].numpy(),
            offers=None if offers is None else Offers.from_state(offers),
            share_noisy=state["share_noisy"],
        )


def decide(
    method: Method,
    own: PairEvidence,
    evidence: Sequence[PairEvidence],
    split: PrecomputedSplit,
    earlier: Division | None = None,
) -> Division:
    """Fit the mixture and divide.

    Args:
        method: of the network whose division this is.
        own: what it has seen.
        evidence: what all networks have seen; heard where the method asks neighbours.
        split: the pairs.
        earlier: this network's last division, if there was one.
    """
    signal, figures, diagnostics, warning = own.signal, {}, own.diagnostics, own.warning
    if own.consensus is not None:
        before = None if earlier is None else -earlier.signal
        said = [seen.consensus.log_odds for seen in evidence if seen.consensus is not None]
        signal = -agreed(said, before, method.config.signal_memory)
        figures = {f"weight_{name}": weight for name, weight in own.consensus.weights.items()}
    probability = method.clean_probability(signal)
    share_noisy: float | None = None
    if own.consensus is not None:
        share_noisy = float(np.mean([seen.consensus.share_noisy for seen in evidence if seen.consensus is not None]))
        probability = tempered(probability, share_noisy, method.config.p_threshold)
        figures["share_noisy"] = share_noisy
    is_clean = method.divide(probability)
    offers = None
    if own.offers is not None:
        made = [seen.offers for seen in evidence if seen.offers is not None]
        offers = joint_offers(made, is_clean, split.image_of_pair)
        figures["offers"] = len(offers) / len(split)
    found = method.findings()
    warnings = "; ".join(filter(None, (warning, found.warning)))
    findings = DivisionReport({**found.figures, **figures}, warnings, found.fitted)
    return Division(signal, probability, is_clean, diagnostics, own.modality_gap, findings, offers, share_noisy)


@dataclass(frozen=True)
class EpochPairs:
    """Pairs to train on.

    Attributes:
        split: given pairs 0 .. N - 1, offered ones behind them.
        clean, noisy: numbers of the pairs of either side; offers are on the clean one.
        probability: (N + M,) float32, clean probability of given pairs, confidence of offered ones.
    """

    split: PrecomputedSplit
    clean: np.ndarray
    noisy: np.ndarray
    probability: Tensor


def epoch_pairs(split: PrecomputedSplit, division: Division | None) -> EpochPairs:
    """Return what a division says is to be trained on; without one all pairs are clean."""
    if division is None:
        everything = np.arange(len(split))
        return EpochPairs(split, everything, everything[:0], torch.ones(len(split)))
    is_clean, probability, offers = division.is_clean, division.probability, division.offers
    if offers is not None and len(offers):
        caption = np.concatenate([np.arange(len(split)), offers.caption])
        split = split.with_pairs(caption, np.concatenate([split.image_of_pair, offers.image]))
        is_clean = np.concatenate([is_clean, np.ones(len(offers), dtype=bool)])
        probability = np.concatenate([probability, offers.confidence])
    clean, noisy = np.flatnonzero(is_clean), np.flatnonzero(~is_clean)
    return EpochPairs(split, clean, noisy, torch.from_numpy(probability).float())
