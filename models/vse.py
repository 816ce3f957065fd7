"""VSE++ (BMVC 2018): one vector an image, one a caption, and their cosine."""

from __future__ import annotations

from torch import Tensor

from models.attention import l2norm, masked_mean, word_mask
from models.sides import EncodedCaptions, EncodedImages, Similarity


class VSE(Similarity):
    """Mean of regions against mean of words, cosine (VSE++, BMVC 2018). No parameters; seconds an epoch."""

    def pool_images(self, regions: Tensor) -> EncodedImages:
        return EncodedImages(regions, l2norm(regions.mean(dim=1)))

    def pool_captions(self, words: Tensor, lengths: Tensor) -> EncodedCaptions:
        mask = word_mask(lengths, words.shape[1], words.device)
        return EncodedCaptions(words, lengths, l2norm(masked_mean(words, mask)))

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
        return images.pooled @ captions.pooled.t()

    def score_pairs(self, images: EncodedImages, captions: EncodedCaptions, image: Tensor, caption: Tensor) -> Tensor:
        return (images.pooled[image] * captions.pooled[caption]).sum(dim=1)
