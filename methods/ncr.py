"""NCR: Learning with Noisy Correspondence for Cross-modal Matching (NeurIPS 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.blocks.method import Method, Scored, SoftLabels, StudentAndPeer
from methods.blocks.targets import predicted_correspondence
from models.losses import pair_costs


class NCR(Method):
    """Divide by loss; relabel the clean side by w + (1 - w) p, the noisy side by both networks' mean p."""

    def _prediction(self, scored: Scored) -> Tensor:
        margin = self.config.margin
        return predicted_correspondence(pair_costs(scored.scores, margin, self.negatives_mask(scored.batch)), margin)

    def refine(self, clean: StudentAndPeer, noisy: StudentAndPeer | None, probability: Tensor) -> SoftLabels:
        """Return NCR's labels (section 3.3)."""
        labels = probability + (1 - probability) * self._prediction(clean.student)
        if noisy is None:
            return SoftLabels(clean=labels)
        predicted = (self._prediction(noisy.student) + self._prediction(noisy.peer)) / 2
        return SoftLabels(clean=labels, noisy=predicted, noisy_kept=torch.ones_like(predicted, dtype=torch.bool))


METHOD = NCR
