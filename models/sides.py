"""What a similarity is: it prepares images and captions once each, then scores images against captions.

Legend: I images, C captions, P pairs, R regions, W words, D embed size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EncodedImages:
    """Images ready for scoring: regions (I, R, D) and one vector each (I, D)."""

    regions: Tensor
    pooled: Tensor

    def __getitem__(self, index: slice | Tensor) -> EncodedImages:
        return EncodedImages(self.regions[index], self.pooled[index])

    def detach(self) -> EncodedImages:
        """Cut the gradient."""
        return EncodedImages(self.regions.detach(), self.pooled.detach())


@dataclass(frozen=True)
class EncodedCaptions:
    """Captions ready for scoring: words (C, W, D), lengths (C,) on the CPU, one vector each (C, D)."""

    words: Tensor
    lengths: Tensor
    pooled: Tensor

    def detach(self) -> EncodedCaptions:
        """Cut the gradient."""
        return EncodedCaptions(self.words.detach(), self.lengths, self.pooled.detach())


class Similarity(nn.Module):
    """Base: pooled vectors of both sides, and scores of all pairs or of wanted ones."""

    couples_pairs = False
    """True where, in training, a pair's score depends on the other pairs of its caption."""

    scoring_dtype: torch.dtype | None = None
    """What the large products are computed in while no gradient is asked for; None: as everything else."""

    def pool_images(self, regions: Tensor) -> EncodedImages:
        """Prepare images (I, R, D)."""
        raise NotImplementedError

    def pool_captions(self, words: Tensor, lengths: Tensor) -> EncodedCaptions:
        """Prepare captions (C, W, D) of `lengths` (C,)."""
        raise NotImplementedError

    def forward(
        self,
        images: EncodedImages,
        captions: EncodedCaptions,
        wanted: Tensor | None = None,
        *,
        exact: bool = False,
        sparse: bool = False,
        known: Tensor | None = None,
    ) -> Tensor:
        """Score images against captions, (I, C).

        Args:
            images: I images.
            captions: C captions.
            wanted: (I, C) bool, the pairs to be scored; the others may be zero. None: all.
            exact: do not use `scoring_dtype`.
            sparse: few scores will have gradient; without, a small batch is scored in one graph.
            known: (I, C) the scores, where they are known already and only their gradient is wanted.
        """
        raise NotImplementedError

    def score_pairs(self, images: EncodedImages, captions: EncodedCaptions, image: Tensor, caption: Tensor) -> Tensor:
        """Score single pairs: image number (P,) against caption number (P,) -> (P,)."""
        wanted = torch.zeros(len(images.regions), len(captions.lengths), dtype=torch.bool)
        wanted[image.cpu(), caption.cpu()] = True
        return self(images, captions, wanted)[image, caption]
