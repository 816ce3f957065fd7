"""BiCro: Noisy Correspondence Rectification via Bi-directional Cross-modal Similarity Consistency (CVPR 2023).

Legend: B pairs, A anchors, D embed size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.blocks.method import Method, MethodConfig, Scored, SoftLabels, StudentAndPeer
from methods.ncr import num_anchors, predicted_correspondence
from models.losses import pair_costs
from runtime.flags import check_range, flag

NOISE_TRAIN = ("train", "noise_soft", "noise_hard")


def most_trusted(p: Tensor) -> Tensor:
    """Return the numbers (A,) of the B // 10 + 1 pairs of highest p; of equal ones, the later."""
    return torch.argsort(p, stable=True)[-num_anchors(len(p)) :]


def _ratio(x: Tensor, z: Tensor) -> Tensor:
    """Return min(x/z, z/x); 0 where a cosine is not positive, where the ratio would mean nothing."""
    low, high = torch.minimum(x, z), torch.maximum(x, z)
    return torch.where(low > 0, low / high.clamp(min=1e-12), torch.zeros_like(low))


def similarity_consistency(image: Tensor, caption: Tensor, anchor_image: Tensor, anchor_caption: Tensor) -> Tensor:
    """Return y* (B,) in [0, 1]: a pair's distances to a trusted pair should agree in both modalities.

    With a the anchor nearest by image and b the one nearest by caption (cosine), and r(x, z) = min(x/z, z/x):
    y* = [r(cosI(u, a), cosT(u, a)) + r(cosT(u, b), cosI(u, b))] / 2.

    Args:
        image, caption: (B, D) pooled vectors of the pairs.
        anchor_image, anchor_caption: (A, D) of the anchors.

    Source: BiCro (CVPR 2023), Eq. 4-6.
    """
    by_image = F.normalize(image, dim=1) @ F.normalize(anchor_image, dim=1).t()  # (B, A)
    by_caption = F.normalize(caption, dim=1) @ F.normalize(anchor_caption, dim=1).t()
    a, b = by_image.argmax(dim=1, keepdim=True), by_caption.argmax(dim=1, keepdim=True)
    first = _ratio(by_image.gather(1, a), by_caption.gather(1, a))
    second = _ratio(by_caption.gather(1, b), by_image.gather(1, b))
    return ((first + second) / 2).squeeze(1).clamp(0, 1)


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
        costs = pair_costs(scored.scores, self.config.margin, self.image_groups(scored.batch))
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
