"""Region and caption encoders of SCAN (ECCV 2018), as SGRAF, NCR, BiCro and MGCS use them.

Parameters carry the lineage's own names (`fc`, `embed`, `cap_rnn`), so that its checkpoints map one to one.
Legend: B images or captions, R regions, W words, D embed size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from models.attention import l2norm
from models.gru import run_gru

LEVELS = 2**16
"""A 64-bit random number decides over four elements, each by 16 bits."""


class Dropout(nn.Module):
    """Dropout whose mask costs a tenth of torch's on a processor, where torch draws one number after another.

    The probability is `p` rounded to 1/65536, and what is kept is scaled by exactly what that leaves.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None
        """What masks on the processor are drawn from; None: torch's global one, as on CUDA."""

    def mask(self, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Draw factors of `shape`, zero or what the others are scaled by; None where nothing is dropped."""
        if not self.training or self.p == 0.0:
            return None
        if like.device.type != "cpu":
            return F.dropout(like.new_ones(shape), self.p)
        dropped, count = round(self.p * LEVELS), math.prod(shape)
        draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=self.generator)
        kept = draws.view(torch.int16)[:count].view(shape) >= dropped - LEVELS // 2
        return kept.to(like.dtype).mul_(LEVELS / (LEVELS - dropped))

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x, of any shape."""
        mask = self.mask(x.shape, x)
        return x if mask is None else x * mask


def set_generator(module: nn.Module, generator: torch.Generator) -> None:
    """Let every dropout of a network draw from a generator of its own."""
    for part in module.modules():
        if isinstance(part, Dropout):
            part.generator = generator


class RegionEncoder(nn.Module):
    """A linear map of each region, then l2-norm."""

    def __init__(self, img_dim: int, embed_size: int, *, normalise: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(img_dim, embed_size)
        bound = math.sqrt(6.0 / (img_dim + embed_size))  # Xavier uniform
        nn.init.uniform_(self.fc.weight, -bound, bound)
        nn.init.zeros_(self.fc.bias)
        self._normalise = normalise

    def forward(self, regions: Tensor) -> Tensor:
        """Map (B, R, img_dim) to (B, R, D)."""
        embedded = self.fc(regions)
        return l2norm(embedded) if self._normalise else embedded


class CaptionEncoder(nn.Module):
    """Word vectors, dropout, (bi-)GRU, the two directions averaged, l2-norm per word."""

    def __init__(
        self,
        vocabulary_size: int,
        word_dim: int,
        embed_size: int,
        *,
        num_layers: int = 1,
        bi_gru: bool = True,
        dropout: float = 0.4,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary_size, word_dim)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        self.dropout = Dropout(dropout)
        self.cap_rnn = nn.GRU(word_dim, embed_size, num_layers, batch_first=True, bidirectional=bi_gru)
        self._normalise = normalise

    @torch.no_grad()
    def set_word_vectors(self, rows: Tensor, is_given: Tensor) -> None:
        """Start words from pretrained vectors; those without one keep their random start.

        Args:
            rows: (V, word_dim), a row for every word of the vocabulary.
            is_given: (V,) bool, the rows that count.
        """
        assert rows.shape == self.embed.weight.shape and is_given.shape == rows.shape[:1]
        weight = self.embed.weight
        weight.copy_(torch.where(is_given.to(weight.device)[:, None], rows.to(weight), weight))

    def dropout_mask(self, tokens: Tensor) -> Tensor | None:
        """Draw the dropout factors (B, W, word_dim) of token ids (B, W); None where nothing is dropped."""
        return self.dropout.mask((*tokens.shape, self.embed.embedding_dim), self.embed.weight)

    def forward(self, tokens: Tensor, lengths: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map token ids (B, W) with lengths (B,) to words (B, W, D), zero beyond each caption's length.

        `mask` is what `dropout_mask` gave; None: nothing is dropped.
        """
        vectors = self.embed(tokens)
        vectors = vectors if mask is None else vectors * mask
        positions = torch.arange(tokens.numel()).view(tokens.shape)
        packed = pack_padded_sequence(positions, lengths.cpu(), batch_first=True, enforce_sorted=False)
        places = packed.data.to(tokens.device)  # (N,) of the valid words in the flattened (B, W)
        states = run_gru(self.cap_rnn, vectors.flatten(0, 1).index_select(0, places), packed.batch_sizes)
        words = (states[0] + states[1]) / 2 if self.cap_rnn.bidirectional else states[0]
        words = l2norm(words) if self._normalise else words
        padded = words.new_zeros(tokens.numel(), words.shape[1]).index_copy(0, places, words)
        return padded.view(*tokens.shape, -1)
