"""MGCS: drift-corrected selection on top of BiCro's relabelling (AAAI 2026).

Every similarity is multiplied by an alignment factor: how well the pair's drift f - g points where the drifts of the
image's neighbours point. Division adds a dynamic regularisation. *Readings* (flags): where neighbours are looked for,
whether an image is its own neighbour, whether the factor carries gradient, where the factor is applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_utils.batch import Batch
from methods.bicro import BiCro, BiCroConfig
from methods.blocks.drift import alignment_factors, dynamic_regularisation, inherent_drift
from methods.blocks.method import Bank, Scored, SoftLabels, StudentAndPeer
from models.matcher import Embeddings
from runtime.errors import InputError
from runtime.flags import check_range, flag

CORRECTION = ("both", "training", "division", "off")


@dataclass(frozen=True)
class MGCSConfig(BiCroConfig):
    """MGCS's flags; defaults are the paper's values or, where it is silent, the plainest reading. What is better on the
    embedded data is in its recipes."""

    drift_correction: str = flag("both", "where similarities are multiplied by drift factors", choices=CORRECTION)
    drift_neighbours: str = flag(
        "batch", "where an image's neighbours are: its batch, or the whole training set", choices=("batch", "bank")
    )
    drift_num_neighbours: int = flag(5, "n, neighbours whose drifts are averaged")
    drift_own: bool = flag(False, "count an image as its own neighbour")
    drift_gradient: bool = flag(True, "let gradients flow through the drift factors")
    drift_margin: float = flag(0.04, "a2, scale of the dynamic margin")
    drift_beta: float = flag(0.2, "beta, weight of the dynamic regularisation in the division signal")
    drift_delta: float = flag(0.5, "delta of the balance weight's formula")
    drift_balance: float | None = flag(
        None, "gamma, weight of the squared drift; unset: beta a2 (1 - delta/a1), negative (-0.012) as published"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "drift_num_neighbours", low=1)
        check_range(self, "drift_margin", low=0.0)
        if self.drift_balance is None and self.margin == 0:
            raise InputError("--margin 0 leaves the balance weight's formula undefined; set --drift_balance")

    @property
    def balance(self) -> float:
        """Gamma: the flag, or the published formula."""
        if self.drift_balance is not None:
            return self.drift_balance
        return self.drift_beta * self.drift_margin * (1 - self.drift_delta / self.margin)


class MGCS(BiCro):
    """Corrected similarities S' = S * F in the hinge, the prediction and the division; clean pairs have label 1."""

    Config = MGCSConfig
    config: MGCSConfig
    defaults = {"warmup_type": "warmup_sele", "warmup_rate": 0.5, "fit_type": "bmm", "lr_rule": "mgcs"}

    def __init__(self, config: MGCSConfig) -> None:
        super().__init__(config)
        self._bank: Bank | None = None

    @property
    def needs_bank(self) -> bool:
        return self.config.drift_neighbours == "bank" and self.config.drift_correction != "off"

    def remember(self, bank: Bank) -> None:
        self._bank = bank

    def state(self) -> dict[str, Any]:
        if self._bank is None or self.config.drift_correction == "division":
            return {}  # each division brings its own bank, and nothing else looks at it
        return {"bank": vars(self._bank)}

    def restore(self, state: dict[str, Any]) -> None:
        self._bank = Bank(**state["bank"]) if state else None

    def factors(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """Return the alignment factors (B, B) of every image with every caption of the batch (Eq. 4-6).

        Neighbours are looked for in the batch until there is a bank.
        """
        if not self.config.drift_gradient:
            embeddings = embeddings.detach()
        image, caption = embeddings.image_global, embeddings.caption_global
        bank = self._bank if self.needs_bank else None
        inherent = inherent_drift(
            image,
            batch.image_id,
            bank.image_global if bank else image,
            bank.drift if bank else image - caption,
            bank.image_id if bank else batch.image_id,
            num_neighbours=self.config.drift_num_neighbours,
            own=self.config.drift_own,
        )
        return alignment_factors(image, caption, inherent)

    def scores(self, sims: Tensor, embeddings: Embeddings, batch: Batch) -> Tensor:
        """Return S * F (Eq. 7, 14), or S where `--drift_correction` leaves training alone."""
        if self.config.drift_correction not in ("both", "training"):
            return sims
        return sims * self.factors(embeddings, batch)

    def pair_signal(self, scored: Scored) -> Tensor:
        """Return l_tri(S') + beta l_dr (Eq. 8-13). *Reading*: l_dr is the mean over the batch's trusted pairs."""
        corrected = scored.sims
        if self.config.drift_correction in ("both", "division"):
            corrected = corrected * self.factors(scored.embeddings, scored.batch)
        triplet = self.per_pair_loss(corrected, scored.batch)
        regularisation = dynamic_regularisation(
            scored.sims,
            scored.embeddings.image_global,
            scored.embeddings.caption_global,
            self.trusted(scored),
            margin=self.config.drift_margin,
            balance=self.config.balance,
        )
        return triplet + self.config.drift_beta * regularisation

    def diagnostics(self, scored: Scored) -> dict[str, Tensor]:
        """Return each pair's S, F and S * F."""
        sims, factors = scored.sims.diagonal(), self.factors(scored.embeddings, scored.batch).diagonal()
        return {"similarity": sims, "drift_factor": factors, "corrected": sims * factors}

    def consults_peer(self, has_noisy: bool) -> bool:
        return has_noisy

    def refine(self, clean: StudentAndPeer, noisy: StudentAndPeer | None, probability: Tensor) -> SoftLabels:
        """Return label 1 for clean pairs and BiCro's y* for noisy ones."""
        ones = torch.ones_like(probability)
        if noisy is None:
            return SoftLabels(clean=ones)
        return self.noisy_labels(self._consistency(noisy.peer, clean.peer, self.trusted(clean.peer)), ones)


METHOD = MGCS
