"""The division of one network's training pairs into a clean and a noisy side, and how good it was.

Legend: N training pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from data_utils.precomputed import PrecomputedSplit
from methods.blocks.consensus import agreed, tempered
from methods.blocks.method import DivisionReport, Method
from methods.blocks.rematch import Offers, joint_offers
from training.evidence import PairEvidence

DIAGNOSTIC = "diagnostic_"
"""Prefix of the diagnostics in a division's file; they are kept in half precision, to be looked at."""


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


def as_arrays(division: Division, is_matched: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return a division as named arrays for a file: signal, probability, is_clean, is_matched (N,) where it is known,
    every diagnostic as `diagnostic_NAME`, and the fitted components, if any (methods/blocks/mixture.py)."""
    fitted = division.findings.fitted
    return {
        "signal": division.signal.astype(np.float32),
        "probability": division.probability.astype(np.float32),
        "is_clean": division.is_clean,
        **({} if is_matched is None else {"is_matched": is_matched}),
        **{f"{DIAGNOSTIC}{name}": values.astype(np.float16) for name, values in division.diagnostics.items()},
        **({} if fitted is None else fitted.as_arrays()),
    }


def _auc(is_matched: np.ndarray, values: np.ndarray) -> float | None:
    """Return the area under the ROC curve, None where one class is missing."""
    from sklearn.metrics import roc_auc_score  # here: it takes long to load

    return float(roc_auc_score(is_matched, values)) if 0 < is_matched.sum() < len(is_matched) else None


def division_metrics(division: Division, is_matched: np.ndarray | None) -> dict[str, float | None]:
    """Return the share of clean pairs and, where the truth (N,) is known, how well it was found.

    Precision and recall are of the clean side; residual noise is the share of mismatched pairs in it.
    """
    metrics: dict[str, float | None] = {
        "share_clean": float(division.is_clean.mean()),
        "modality_gap": division.modality_gap,
        **division.findings.figures,
    }
    if is_matched is None:
        return metrics
    hits = float((division.is_clean & is_matched).sum())
    metrics["precision"] = hits / division.is_clean.sum() if division.is_clean.any() else None
    metrics["recall"] = hits / is_matched.sum() if is_matched.any() else None
    metrics["residual_noise"] = None if metrics["precision"] is None else 1 - metrics["precision"]
    metrics["auc"] = _auc(is_matched, division.probability)
    metrics["auc_signal"] = _auc(is_matched, -division.signal)
    for name, values in division.diagnostics.items():
        metrics[f"auc_{name}"] = _auc(is_matched, values)
    return metrics


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
