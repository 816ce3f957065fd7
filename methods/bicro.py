"""BiCro: Noisy Correspondence Rectification via Bi-directional Cross-modal Similarity Consistency (CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.blocks.method import Method, MethodConfig, Scored, SoftLabels, StudentAndPeer
from methods.blocks.targets import NOISE_TRAIN, most_trusted, predicted_correspondence, similarity_consistency
from models.losses import pair_costs
from runtime.flags import check_range, flag


@dataclass(frozen=True)
class BiCroConfig(MethodConfig):
    """BiCro's flags, shared by what builds on it."""

    noise_train: str = flag(
        "train",
        "noisy pairs: train keeps their labels, noise_soft sets labels up to --noise_tem to 0, noise_hard drops them",
        choices=NOISE_TRAIN,
    )
    noise_tem: float = flag(0.5, "label up to which noise_soft and noise_hard act, in [0, 1]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "noise_tem", low=0.0, high=1.0)


class BiCro(Method):
    """Relabel a pair by how it lies to the batch's most trusted pairs, which the peer picks on the clean side.

    *Reading*: pooled vectors are the peer's too, so that no network grades its own work.
    """

    Config = BiCroConfig
    config: BiCroConfig
    defaults = {"warmup_type": "warmup_sele", "fit_type": "bmm", "noise_train": "noise_soft"}

    def trusted(self, scored: Scored) -> Tensor:
        """Return the numbers of the batch's most trusted pairs in the eyes of one network."""
        costs = pair_costs(scored.scores, self.config.margin, self.negatives_mask(scored.batch))
        return most_trusted(predicted_correspondence(costs, self.config.margin))

    def _consistency(self, scored: Scored, anchors_from: Scored, anchors: Tensor) -> Tensor:
        pooled, reference = scored.embeddings, anchors_from.embeddings
        return similarity_consistency(
            pooled.image_global,
            pooled.caption_global,
            reference.image_global[anchors],
            reference.caption_global[anchors],
        )

    def clean_labels(self, clean: Scored, anchors: Tensor) -> Tensor:
        """Return 1 for the trusted pairs and 0.5 + y*/2 for the others."""
        labels = 0.5 + self._consistency(clean, clean, anchors) / 2
        labels[anchors] = 1.0
        return labels

    def noisy_labels(self, labels: Tensor, clean: Tensor) -> SoftLabels:
        """Apply `--noise_train` to the noisy side's y* and join it with the clean side's labels."""
        is_low = labels <= self.config.noise_tem
        kept = torch.ones_like(is_low)
        if self.config.noise_train == "noise_soft":
            labels = labels.masked_fill(is_low, 0.0)
        elif self.config.noise_train == "noise_hard":
            kept = ~is_low
        return SoftLabels(clean=clean, noisy=labels, noisy_kept=kept)

    def refine(self, clean: StudentAndPeer, noisy: StudentAndPeer | None, probability: Tensor) -> SoftLabels:
        """Return BiCro's labels (section 3.3); the noisy side is measured against the clean batch's trusted pairs."""
        anchors = self.trusted(clean.peer)
        labels = self.clean_labels(clean.peer, anchors)
        if noisy is None:
            return SoftLabels(clean=labels)
        return self.noisy_labels(self._consistency(noisy.peer, clean.peer, anchors), labels)


METHOD = BiCro
