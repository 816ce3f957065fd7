"""VSE++ (BMVC 2018) and VSE-infinity (CVPR 2021): one vector an image, one a caption, and their cosine.

VSE takes the mean of the elements. GPO sorts every feature over the elements by itself; the k-th largest value counts
with a weight that a small GRU reads from the position codes 0 .. K - 1, so that means, maxima and everything between
are special cases. Its parameters carry the published names (`gru`, `linear`).
Legend: B images or captions, K elements of each, D features.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from models.attention import l2norm, masked_mean, word_mask
from models.encoders import run_gru
from models.similarity import EncodedCaptions, EncodedImages, Similarity

CODE_SIZE = 32
HIDDEN_SIZE = 32
TEMPERATURE = 0.1
LONGEST_WAVE = 10_000.0


def position_codes(count: int, like: Tensor) -> Tensor:
    """Return (count, CODE_SIZE): at 2k and 2k + 1 of position p stand sine and cosine of p / 10000^(2k / CODE_SIZE)."""
    count_up = partial(torch.arange, dtype=like.dtype, device=like.device)
    angles = count_up(count)[:, None] * torch.exp(count_up(0, CODE_SIZE, 2) * (-math.log(LONGEST_WAVE) / CODE_SIZE))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class RankPooling(nn.Module):
    """The generalised pooling operator: weights by rank, learnt (VSE-infinity, Sec. 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(CODE_SIZE, HIDDEN_SIZE, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(HIDDEN_SIZE, 1, bias=False)

    def rank_weights(self, lengths: Tensor) -> Tensor:
        """Return the weights (B, K) of ranks for sets of `lengths` (B,), K the largest: each row adds up to 1.

        They depend on the length alone, so that each length is read by the GRU once.
        """
        distinct, row = lengths.cpu().unique(return_inverse=True)
        width = int(distinct[-1])
        places = torch.arange(len(distinct) * width).view(len(distinct), width)
        packed = pack_padded_sequence(places, distinct, batch_first=True, enforce_sorted=False)
        weight, place = self.linear.weight, packed.data.to(self.linear.weight.device)
        codes = position_codes(width, weight)[place % width]
        forward, backward = run_gru(self.gru, codes, packed.batch_sizes)
        logits = self.linear((forward + backward) / 2).squeeze(1) / TEMPERATURE
        rows = logits.new_full((len(distinct) * width,), float("-inf")).index_copy(0, place, logits)
        return torch.softmax(rows.view(len(distinct), width), dim=1).index_select(0, row.to(weight.device))

    def forward(self, elements: Tensor, lengths: Tensor) -> Tensor:
        """Pool elements (B, K, D), of which the first `lengths` (B,) are there, to (B, D)."""
        weights = self.rank_weights(lengths)
        elements = elements[:, : weights.shape[1]]
        mask = word_mask(lengths, weights.shape[1], elements.device)[:, :, None]
        ranked = elements.masked_fill(~mask, float("-inf")).sort(dim=1, descending=True).values
        return torch.einsum("bkd,bk->bd", ranked.masked_fill(~mask, 0.0), weights)


class VSE(Similarity):
    """Mean of regions against mean of words, cosine (VSE++, BMVC 2018). No parameters; seconds an epoch."""

    def pool_images(self, regions: Tensor) -> EncodedImages:
        return EncodedImages(regions, l2norm(regions.mean(dim=1)))

    def pool_captions(self, words: Tensor, lengths: Tensor) -> EncodedCaptions:
        mask = word_mask(lengths, words.shape[1], words.device)
        return EncodedCaptions(words, lengths, l2norm(masked_mean(words, mask)))

    def forward(self, images: EncodedImages, captions: EncodedCaptions) -> Tensor:
        return images.pooled @ captions.pooled.t()

    def score_pairs(self, images: EncodedImages, captions: EncodedCaptions, image: Tensor, caption: Tensor) -> Tensor:
        return (images.pooled[image] * captions.pooled[caption]).sum(dim=1)


class GPO(VSE):
    """Cosine of what two poolings make of regions and of words."""

    def __init__(self) -> None:
        super().__init__()
        self.image_gpool = RankPooling()
        self.caption_gpool = RankPooling()

    def pool_images(self, regions: Tensor) -> EncodedImages:
        lengths = torch.full((len(regions),), regions.shape[1])
        return EncodedImages(regions, l2norm(self.image_gpool(regions, lengths)))

    def pool_captions(self, words: Tensor, lengths: Tensor) -> EncodedCaptions:
        return EncodedCaptions(words, lengths, l2norm(self.caption_gpool(words, lengths)))
