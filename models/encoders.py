"""Region and caption encoders of SCAN (ECCV 2018), as SGRAF, NCR, BiCro and MGCS use them.

Parameters carry the lineage's own names (`fc`, `embed`, `cap_rnn`), so that its checkpoints map one to one.
Legend: B images or captions, R regions, W words, D embed size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from models.attention import l2norm
from models.dropout import Dropout, Rows
from models.gru import run_gru


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

    def forward(self, tokens: Tensor, lengths: Tensor, part: Rows | None = None) -> Tensor:
        """Map token ids (B, W) with lengths (B,) to words (B, W, D), zero beyond each caption's length.

        `part` says which rows of a larger batch these are, for its dropout masks.
        """
        vectors = self.dropout(self.embed(tokens), part)
        positions = torch.arange(tokens.numel()).view(tokens.shape)
        packed = pack_padded_sequence(positions, lengths.cpu(), batch_first=True, enforce_sorted=False)
        places = packed.data.to(tokens.device)  # (N,) of the valid words in the flattened (B, W)
        states = run_gru(self.cap_rnn, vectors.flatten(0, 1).index_select(0, places), packed.batch_sizes)
        words = (states[0] + states[1]) / 2 if self.cap_rnn.bidirectional else states[0]
        words = l2norm(words) if self._normalise else words
        padded = words.new_zeros(tokens.numel(), words.shape[1]).index_copy(0, places, words)
        return padded.view(*tokens.shape, -1)
