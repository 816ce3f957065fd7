"""SCAN (ECCV 2018): every word is compared with what it attends to in the image, or every region with what it attends
to in the caption; the cosines are pooled.

The attended context c = sum_l a_l s_l is never made: with A the products of queries and sources and G = S S^T,
<q, c> = sum_l a_l A_l and |c|^2 = a^T G a. A pair costs K L D and not twice that, and the denominator of the softmax
cancels.
Legend: S sources of L elements each, Q queries of K elements each, D embed size; regions and words, or the reverse.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import EPSILON, TINY, gram, masked_mean, word_mask
from models.similarity import Block, CrossAttention, EncodedCaptions, EncodedImages

SOFTMAX_FACTORS = {"t2i": 9.0, "i2t": 4.0}
LSE_FACTORS = {"t2i": 6.0, "i2t": 5.0}
"""Published for Flickr30K; for MS-COCO the same, but a LogSumExp factor of 20 for i2t."""

POOLINGS = ("mean", "lse")


def attended_cosines(
    sources: Tensor,
    products: Tensor,
    queries: Tensor,
    query_squares: Tensor,
    factor: float,
    source_mask: Tensor | None = None,
) -> Tensor:
    """Return the cosine of every query element with its context in every source.

    A = LeakyReLU(<s, q>), l2-normalised over the elements of the query; softmax of `factor` A over those of the source.

    Args:
        sources: (S, L, D).
        products: (S, L, L), `gram(sources)`; what is not a large product is computed in its dtype.
        queries: (Q, K, D), each against every source; or (S, 1, K, D), each against its own source alone.
        query_squares: (Q, K) or (S, 1, K), their squared lengths.
        factor: the softmax factor; up to 40 no exponential overflows or vanishes.
        source_mask: (S, L) the elements that are there; others are zero, here and in queries. None: all.

    Returns:
        (S, Q, K), or (S, 1, K).
    """
    if queries.dim() == 4:
        affinity = torch.bmm(sources, queries.squeeze(1).transpose(1, 2))[:, :, None]
    else:
        affinity = (sources.flatten(0, 1) @ queries.flatten(0, 1).t()).view(*sources.shape[:2], *queries.shape[:2])
    affinity = affinity.to(products.dtype)  # (S, L, Q, K)
    raised = F.leaky_relu(affinity, 0.1)
    norm = raised.square().sum(dim=3, keepdim=True).clamp(min=TINY).sqrt()
    weights = torch.exp(raised * (factor / (norm + EPSILON))).flatten(2)
    if source_mask is not None:  # they add nothing as it is, but must have no gradient either
        weights = weights * source_mask[:, :, None]
    along = (weights * affinity.flatten(2)).sum(dim=1)
    squares = (weights * (products @ weights)).sum(dim=1)
    shape = (len(affinity), *affinity.shape[2:])
    size = squares.view(shape).clamp(min=TINY).sqrt() * query_squares.clamp(min=TINY).sqrt()
    return along.view(shape) / size.clamp(min=EPSILON)


class SCAN(CrossAttention):
    """Stacked cross attention, from words to regions (t2i) or from regions to words (i2t). No parameters."""

    def __init__(
        self,
        direction: str,
        *,
        pooling: str = "lse",
        softmax_factor: float | None = None,
        lse_factor: float | None = None,
    ) -> None:
        super().__init__()
        self._words_ask = direction == "t2i"
        self._pooling = pooling
        self._softmax_factor = SOFTMAX_FACTORS[direction] if softmax_factor is None else softmax_factor
        self._lse_factor = LSE_FACTORS[direction] if lse_factor is None else lse_factor

    def pool_images(self, regions: Tensor) -> EncodedImages:
        return EncodedImages(regions, regions.mean(dim=1))

    def pool_captions(self, words: Tensor, lengths: Tensor) -> EncodedCaptions:
        return EncodedCaptions(words, lengths, masked_mean(words, word_mask(lengths, words.shape[1], words.device)))

    def block_weights(self, dtype: torch.dtype) -> list[Tensor]:
        return []

    def score_block(self, weights: list[Tensor], block: Block) -> Tensor:
        regions, products, _, words, _, mask = block
        full = words.to(products.dtype)
        if self._words_ask:
            cosines = attended_cosines(regions, products, words, full.square().sum(dim=-1), self._softmax_factor)
            return self._pool(cosines, mask)
        squares = products.diagonal(dim1=1, dim2=2)
        is_paired = words.dim() == 4
        if is_paired:
            words, full, mask = words.squeeze(1), full.squeeze(1), mask.squeeze(1)
            regions, squares = regions[:, None], squares[:, None]
        cosines = attended_cosines(words, gram(full), regions, squares, self._softmax_factor, mask)
        scores = self._pool(cosines, torch.ones_like(squares, dtype=torch.bool))  # (C, I) or, of single pairs, (I, 1)
        return scores if is_paired else scores.t()

    def _pool(self, cosines: Tensor, mask: Tensor) -> Tensor:
        """Pool cosines (S, Q, K), of which `mask`, to (S, Q, K), names those there, to (S, Q)."""
        if self._pooling == "lse":
            scaled = (self._lse_factor * cosines).masked_fill(~mask, float("-inf"))
            return scaled.logsumexp(dim=2) / self._lse_factor
        return cosines.masked_fill(~mask, 0.0).sum(dim=2) / mask.sum(dim=-1)
