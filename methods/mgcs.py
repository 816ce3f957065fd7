"""MGCS: drift-corrected selection on top of BiCro's relabelling (AAAI 2026).

Every similarity is multiplied by an alignment factor: how well the pair's drift f - g points where the drifts of the
image's neighbours point. Division adds a dynamic regularisation. *Readings* (flags): where neighbours are looked for,
whether an image is its own neighbour, whether the factor carries gradient, where the factor is applied.
f_i and g_j are pooled image and caption vectors, d_ij = f_i - g_j their drift.
Legend: B pairs, V images in the bank, D embed size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_utils.loaders import Batch
from methods.bicro import BiCro, BiCroConfig
from methods.blocks.method import Bank, Scored, SoftLabels, StudentAndPeer
from models.matcher import Embeddings
from runtime.errors import InputError
from runtime.flags import check_range, flag

CORRECTION = ("both", "training", "division", "off")
EPSILON = 1e-8


def inherent_drift(
    image: Tensor,
    image_id: Tensor,
    bank_image: Tensor,
    bank_drift: Tensor,
    bank_id: Tensor,
    *,
    num_neighbours: int,
    own: bool = False,
) -> Tensor:
    """Return m_i (B, D), the mean drift of the n nearest images of image i by cosine (MGCS Eq. 4-5).

    Args:
        image: (B, D) f of the images asked for.
        image_id: (B,) their numbers.
        bank_image, bank_drift, bank_id: (V, D), (V, D), (V,) where neighbours are looked for.
        num_neighbours: n; fewer if the bank holds fewer.
        own: keep image i itself as a candidate; left out otherwise, else a mismatched pair pulls up its own factor.

    Returns:
        (B, D); zero for an image without any neighbour.
    """
    near = F.normalize(image, dim=1) @ F.normalize(bank_image, dim=1).t()  # (B, V)
    if not own:
        near = near.masked_fill(image_id[:, None] == bank_id[None, :], float("-inf"))
    top = near.topk(min(num_neighbours, near.shape[1]), dim=1)
    is_there = torch.isfinite(top.values).to(image.dtype)  # (B, n)
    total = (bank_drift[top.indices] * is_there[:, :, None]).sum(dim=1)
    return total / is_there.sum(dim=1, keepdim=True).clamp(min=1)


def alignment_factors(image: Tensor, caption: Tensor, inherent: Tensor) -> Tensor:
    """Return F (B, B) with F_ij = cos(d_ij, m_i) in [-1, 1] (MGCS Eq. 6).

    Computed from products, without a (B, B, D) tensor: <d_ij, m_i> = <f_i, m_i> - g_j . m_i and
    |d_ij|^2 = |f_i|^2 + |g_j|^2 - 2 f_i . g_j. An image without neighbours (m_i = 0) has factor 1.
    """
    product = (image * inherent).sum(dim=1, keepdim=True) - inherent @ caption.t()
    squared = image.square().sum(dim=1, keepdim=True) + caption.square().sum(dim=1) - 2 * image @ caption.t()
    length = squared.clamp(min=EPSILON).sqrt()
    size = torch.linalg.vector_norm(inherent, dim=1, keepdim=True)
    factors = (product / (length * size).clamp(min=EPSILON)).clamp(-1, 1)
    return torch.where(size > 0, factors, torch.ones_like(factors))


def dynamic_regularisation(
    sims: Tensor, image: Tensor, caption: Tensor, anchors: Tensor, *, margin: float, balance: float
) -> Tensor:
    """Return l_dr (B,), how asymmetric a pair is towards the trusted pairs of its batch (MGCS Eq. 8-12).

    With anchor a and pair u, (l_a + l_u) / 2 = (s_ua - s_au)^2, so that
    l_dr = mean over a of [(s_ua - s_au)^2 - a_dy]+ + balance |f_u - g_u|^2, a_dy = margin (1 - cos(f_u, g_u)).

    Args:
        sims: (B, B).
        image, caption: (B, D) pooled vectors f and g.
        anchors: (A,) numbers of the trusted pairs.
        margin: a2.
        balance: gamma, the weight of the squared drift.
    """
    asymmetry = (sims[:, anchors] - sims[anchors, :].t()).square()  # (B, A): s_ua - s_au
    dynamic_margin = margin * (1 - F.cosine_similarity(image, caption, dim=1))
    hinge = (asymmetry - dynamic_margin[:, None]).clamp(min=0).mean(dim=1)
    return hinge + balance * (image - caption).square().sum(dim=1)


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

    def refine(self, clean: StudentAndPeer, noisy: StudentAndPeer | None, probability: Tensor) -> SoftLabels:
        """Return label 1 for clean pairs and BiCro's y* for noisy ones."""
        ones = torch.ones_like(probability)
        if noisy is None:
            return SoftLabels(clean=ones)
        return self.noisy_labels(self._consistency(noisy.peer, clean.peer, self.trusted(clean.peer)), ones)


METHOD = MGCS
