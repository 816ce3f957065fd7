"""Similarities by name: SGR and SAF (SGRAF, AAAI 2021), VSE (VSE++, BMVC 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from models.attention import l2norm, masked_mean, word_mask
from models.sgraf import SAF, SGR
from models.sides import CaptionSide, ImageSide, Similarity


class SimilaritySizes(Protocol):
    """The sizes a similarity is made from."""

    @property
    def embed_size(self) -> int: ...
    @property
    def sim_dim(self) -> int: ...
    @property
    def sgr_step(self) -> int: ...
    @property
    def dropout(self) -> float: ...


class VSE(Similarity):
    """Mean of regions against mean of words, cosine (VSE++, BMVC 2018). No parameters; seconds an epoch."""

    def image_side(self, regions: Tensor) -> ImageSide:
        return ImageSide(regions, l2norm(regions.mean(dim=1)))

    def caption_side(self, words: Tensor, lengths: Tensor) -> CaptionSide:
        mask = word_mask(lengths, words.shape[1], words.device)
        return CaptionSide(words, lengths, l2norm(masked_mean(words, mask)))

    def forward(
        self,
        images: ImageSide,
        captions: CaptionSide,
        wanted: Tensor | None = None,
        *,
        exact: bool = False,
        sparse: bool = False,
        known: Tensor | None = None,
    ) -> Tensor:
        return images.pooled @ captions.pooled.t()

    def score_pairs(self, images: ImageSide, captions: CaptionSide, image: Tensor, caption: Tensor) -> Tensor:
        return (images.pooled[image] * captions.pooled[caption]).sum(dim=1)


SIMILARITIES: dict[str, Callable[[SimilaritySizes, int], Similarity]] = {
    "SGR": lambda c, num_regions: SGR(c.embed_size, c.sim_dim, num_regions, c.dropout, c.sgr_step),
    "SAF": lambda c, num_regions: SAF(c.embed_size, c.sim_dim, num_regions, c.dropout),
    "VSE": lambda c, num_regions: VSE(),
}
"""`--module_name`: name -> similarity, made from the matcher's sizes and the number of regions of an image."""
