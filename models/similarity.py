"""Similarities between images and captions: SGR and SAF (SGRAF, AAAI 2021), VSE (VSE++, BMVC 2018).

A similarity first makes what it needs of each image and each caption once (`image_side`, `caption_side`), then scores
every image against every caption (`forward`) or chosen pairs (`score_pairs`). Captions are scored in groups of equal
length, so that no padding enters a norm or a softmax, and a group in tiles, so that a tile's tensors stay in the cache.

Parameters carry SGRAF's own names, so that checkpoints of the lineage map one to one.
Legend: I images, C captions, P pairs, R regions, W words, D embed size, S sim_dim, N = W + 1 nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import attend_pairs, attend_tile, l2norm, masked_mean, softmax_of_short_rows, word_mask

TILE_IMAGES = 64
TILE_WORDS = 64
"""A tile is at most 64 images x 64 words: larger ones fall out of the cache and are slower (measured at D = 1024)."""

PAIR_WORDS = 4096
"""Single pairs are scored so many words at a time."""


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


@dataclass(frozen=True)
class ImageSide:
    """Images ready for scoring: regions (I, R, D) and one vector each (I, D)."""

    regions: Tensor
    pooled: Tensor

    def __getitem__(self, index: slice | Tensor) -> ImageSide:
        return ImageSide(self.regions[index], self.pooled[index])

    def detach(self) -> ImageSide:
        """Cut the gradient."""
        return ImageSide(self.regions.detach(), self.pooled.detach())


@dataclass(frozen=True)
class CaptionSide:
    """Captions ready for scoring: words (C, W, D), lengths (C,) on the CPU, one vector each (C, D)."""

    words: Tensor
    lengths: Tensor
    pooled: Tensor

    def detach(self) -> CaptionSide:
        """Cut the gradient."""
        return CaptionSide(self.words.detach(), self.lengths, self.pooled.detach())


class Similarity(nn.Module):
    """Base: pooled vectors, and the walk over tiles of equally long captions."""

    couples_pairs = False
    """True where, in training, a pair's score depends on the other pairs of the batch."""

    differentiate_all = False
    """True where every pair carries gradient in training: its pairs are coupled, or cost next to nothing."""

    def image_side(self, regions: Tensor) -> ImageSide:
        """Prepare images (I, R, D)."""
        raise NotImplementedError

    def caption_side(self, words: Tensor, lengths: Tensor) -> CaptionSide:
        """Prepare captions (C, W, D) of `lengths` (C,)."""
        raise NotImplementedError

    def score_tile(self, images: ImageSide, words: Tensor, pooled: Tensor) -> Tensor:
        """Score images against captions of exactly W words: words (C, W, D), pooled (C, D) -> (I, C)."""
        raise NotImplementedError

    def score_group(self, images: ImageSide, words: Tensor, pooled: Tensor) -> Tensor:
        """Score single pairs of exactly W words: P images, words (P, W, D), pooled (P, D) -> (P,)."""
        raise NotImplementedError

    def forward(self, images: ImageSide, captions: CaptionSide) -> Tensor:
        """Score every image against every caption: (I, C)."""
        num_images = len(images.regions)
        tile_images = num_images if self.training and self.couples_pairs else TILE_IMAGES
        columns, order = [], []
        for length, index in _tiles_of_equal_length(captions.lengths):
            where = index.to(captions.words.device)
            words, pooled = captions.words[where, :length], captions.pooled[where]
            tiles = [
                self.score_tile(images[start : start + tile_images], words, pooled)
                for start in range(0, num_images, tile_images)
            ]
            columns.append(torch.cat(tiles))
            order.append(index)
        back = torch.argsort(torch.cat(order)).to(captions.words.device)
        return torch.cat(columns, dim=1)[:, back]

    def score_pairs(self, images: ImageSide, captions: CaptionSide, image: Tensor, caption: Tensor) -> Tensor:
        """Score single pairs: image number (P,) against caption number (P,) -> (P,)."""
        lengths = captions.lengths[caption.cpu()]
        scores, order = [], []
        for length in lengths.unique().tolist():
            members = torch.nonzero(lengths == length).flatten()
            for index in members.split(max(1, PAIR_WORDS // length)):
                where = index.to(image.device)
                words, pooled = captions.words[caption[where], :length], captions.pooled[caption[where]]
                scores.append(self.score_group(images[image[where]], words, pooled))
                order.append(index)
        back = torch.argsort(torch.cat(order)).to(image.device)
        return torch.cat(scores)[back]


def _tiles_of_equal_length(lengths: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (length, caption numbers), at most `TILE_WORDS` words of captions at a time."""
    for length in lengths.unique().tolist():
        members = torch.nonzero(lengths == length).flatten()
        for index in members.split(max(1, TILE_WORDS // length)):
            yield length, index


class _SelfAttentionPooling(nn.Module):
    """Weigh elements by how they agree with their own mean (SGRAF, Eq. 1), then add them up.

    Images: BatchNorm over the R regions on the local side and over D on the global one. Captions: none, so that words
    may be padded; mean and softmax see the valid words only.
    """

    def __init__(self, size: int, dropout: float, num_regions: int | None = None) -> None:
        super().__init__()
        local: list[nn.Module] = [nn.Linear(size, size)]
        glob: list[nn.Module] = [nn.Linear(size, size)]
        if num_regions is not None:
            local.append(nn.BatchNorm1d(num_regions))
            glob.append(nn.BatchNorm1d(size))
        self.embedding_local = nn.Sequential(*local, nn.Tanh(), nn.Dropout(dropout))
        self.embedding_global = nn.Sequential(*glob, nn.Tanh(), nn.Dropout(dropout))
        self.embedding_common = nn.Sequential(nn.Linear(size, 1))

    def forward(self, elements: Tensor, mean: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool elements (B, K, D) with their mean (B, D) to (B, D), l2-normalised; mask (B, K) names the valid ones."""
        gated = self.embedding_local(elements) * self.embedding_global(mean)[:, None]
        logits = self.embedding_common(gated).squeeze(2)  # (B, K)
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        return l2norm(torch.einsum("bk,bkd->bd", torch.softmax(logits, dim=1), elements))


class _SimilarityVectors(Similarity):
    """What SGR and SAF share: a similarity vector for each word and one for the whole pair; subclasses read them."""

    def __init__(self, embed_size: int, sim_dim: int, num_regions: int, dropout: float) -> None:
        super().__init__()
        self.v_global_w = _SelfAttentionPooling(embed_size, dropout, num_regions)
        self.t_global_w = _SelfAttentionPooling(embed_size, dropout)
        self.sim_tranloc_w = nn.Linear(embed_size, sim_dim)
        self.sim_tranglo_w = nn.Linear(embed_size, sim_dim)
        self.sim_eval_w = nn.Linear(sim_dim, 1)

    def _initialise(self) -> None:
        """Xavier-uniform weights and zero biases for linear maps, ones and zeros for batch norms (SGRAF)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def image_side(self, regions: Tensor) -> ImageSide:
        return ImageSide(regions, self.v_global_w(regions, regions.mean(dim=1)))

    def caption_side(self, words: Tensor, lengths: Tensor) -> CaptionSide:
        mask = word_mask(lengths, words.shape[1], words.device)
        return CaptionSide(words, lengths, self.t_global_w(words, masked_mean(words, mask), mask))

    def _nodes(self, context: Tensor, words: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        """Return [s_0, s_1 .. s_W], (..., N, S): s = l2norm(W (x - y)^2) of the pooled vectors, then of each word."""
        local = l2norm(self.sim_tranloc_w((context - words).square()))
        pooled = l2norm(self.sim_tranglo_w((image - caption).square()))
        return torch.cat([pooled.unsqueeze(-2), local], dim=-2)

    def read(self, nodes: Tensor) -> Tensor:
        """Turn nodes (..., N, S) into scores (...,); one leading dimension of captions at least."""
        raise NotImplementedError

    def score_tile(self, images: ImageSide, words: Tensor, pooled: Tensor) -> Tensor:
        context = attend_tile(images.regions, words)
        return self.read(self._nodes(context, words, images.pooled[:, None], pooled))

    def score_group(self, images: ImageSide, words: Tensor, pooled: Tensor) -> Tensor:
        context = attend_pairs(images.regions, words)
        return self.read(self._nodes(context, words, images.pooled, pooled))


class _GraphReasoning(nn.Module):
    """One step X <- ReLU(W_g (softmax(Q(X) K(X)^T) X)) (SGRAF, Eq. 6-7)."""

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.graph_query_w = nn.Linear(sim_dim, sim_dim)
        self.graph_key_w = nn.Linear(sim_dim, sim_dim)
        self.sim_graph_w = nn.Linear(sim_dim, sim_dim)

    def forward(self, nodes: Tensor, *, first_only: bool = False) -> Tensor:
        """Map nodes (X, N, S) to (X, N, S), or to the new node 0 alone, (X, 1, S).

        Query and key maps are merged: a term that is the same for every key does not change the softmax over keys, so
        Q(x) . K(y) may be replaced by (M x + v) . y with M = W_k^T W_q and v = W_k^T b_q.
        """
        merged = self.graph_key_w.weight.t() @ self.graph_query_w.weight
        offset = self.graph_query_w.bias @ self.graph_key_w.weight
        query = F.linear(nodes[:, :1] if first_only else nodes, merged, offset)
        edges = softmax_of_short_rows(query @ nodes.transpose(1, 2))
        return F.relu(self.sim_graph_w(edges @ nodes))


class SGR(_SimilarityVectors):
    """Similarity graph reasoning: `num_steps` steps over the nodes, then node 0 gives the score."""

    def __init__(self, embed_size: int, sim_dim: int, num_regions: int, dropout: float, num_steps: int) -> None:
        super().__init__(embed_size, sim_dim, num_regions, dropout)
        self.SGR_module = nn.ModuleList(_GraphReasoning(sim_dim) for _ in range(num_steps))
        self._initialise()

    def read(self, nodes: Tensor) -> Tensor:
        x = nodes.flatten(0, -3)  # (pairs, N, S)
        for k, step in enumerate(self.SGR_module):
            x = step(x, first_only=k == len(self.SGR_module) - 1)  # only node 0 is read after the last step
        return torch.sigmoid(self.sim_eval_w(x[:, 0])).view(nodes.shape[:-2])


class _Attention1d(nn.Module):
    """SAF's weights: sigmoid(BatchNorm(w . s)), l1-normalised over the nodes.

    In training the BatchNorm sees one caption at a time: its statistics run over the images and nodes of that caption,
    and the running ones are updated caption after caption.
    """

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.attn_sim_w = nn.Linear(sim_dim, 1)
        self.bn = nn.BatchNorm1d(1)


class SAF(_SimilarityVectors):
    """Similarity attention filtration: a weighted sum of the nodes gives the score (SGRAF, Eq. 8-9)."""

    couples_pairs = True
    differentiate_all = True

    def __init__(self, embed_size: int, sim_dim: int, num_regions: int, dropout: float) -> None:
        super().__init__(embed_size, sim_dim, num_regions, dropout)
        self.SAF_module = _Attention1d(sim_dim)
        self._initialise()
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: ImageSide, captions: CaptionSide) -> Tensor:
        self._seen = []
        sims = super().forward(images, captions)
        if self.training and torch.is_grad_enabled():  # a pass that only looks leaves no trace
            self._update_running_statistics(captions.lengths)
        return sims

    @torch.no_grad()
    def _update_running_statistics(self, lengths: Tensor) -> None:
        """Apply the updates of all captions in batch order at once.

        After C updates r <- (1 - m) r + m x_c, r = (1 - m)^C r + sum_c m (1 - m)^(C - 1 - c) x_c.
        """
        bn = self.SAF_module.bn
        assert bn.momentum is not None and bn.running_mean is not None and bn.running_var is not None
        assert bn.num_batches_tracked is not None
        order = torch.cat([index for _, index in _tiles_of_equal_length(lengths)])
        back = torch.argsort(order).to(bn.running_mean.device)
        keep = 1 - bn.momentum
        weights = bn.momentum * keep ** torch.arange(len(order) - 1, -1, -1, device=back.device)
        for running, k in ((bn.running_mean, 0), (bn.running_var, 1)):
            values = torch.cat([seen[k] for seen in self._seen])[back]
            running.mul_(keep ** len(order)).add_((weights * values).sum())
        bn.num_batches_tracked += len(order)
        self._seen = []

    def read(self, nodes: Tensor) -> Tensor:
        bn = self.SAF_module.bn
        logits = self.SAF_module.attn_sim_w(nodes).squeeze(-1)  # (..., N)
        if self.training:
            assert logits.dim() == 3, "in training SAF scores whole columns: (I, C, N)"
            count = logits.shape[0] * logits.shape[2]
            variance, mean = torch.var_mean(logits, dim=(0, 2), correction=0)  # (C,)
            self._seen.append((mean.detach(), variance.detach() * count / max(count - 1, 1)))
            mean, variance = mean[:, None], variance[:, None]
        else:
            assert bn.running_mean is not None and bn.running_var is not None
            mean, variance = bn.running_mean, bn.running_var
        scaled = (logits - mean) * torch.rsqrt(variance + bn.eps) * bn.weight + bn.bias
        gates = torch.sigmoid(scaled)
        gates = gates / (gates.sum(dim=-1, keepdim=True) + 1e-8)
        pooled = l2norm(torch.einsum("...n,...ns->...s", gates, nodes))
        return torch.sigmoid(self.sim_eval_w(pooled)).squeeze(-1)


class VSE(Similarity):
    """Mean of regions against mean of words, cosine (VSE++, BMVC 2018). No parameters; seconds an epoch."""

    differentiate_all = True

    def image_side(self, regions: Tensor) -> ImageSide:
        return ImageSide(regions, l2norm(regions.mean(dim=1)))

    def caption_side(self, words: Tensor, lengths: Tensor) -> CaptionSide:
        mask = word_mask(lengths, words.shape[1], words.device)
        return CaptionSide(words, lengths, l2norm(masked_mean(words, mask)))

    def forward(self, images: ImageSide, captions: CaptionSide) -> Tensor:
        return images.pooled @ captions.pooled.t()

    def score_pairs(self, images: ImageSide, captions: CaptionSide, image: Tensor, caption: Tensor) -> Tensor:
        return (images.pooled[image] * captions.pooled[caption]).sum(dim=1)


SIMILARITIES: dict[str, Callable[[SimilaritySizes, int], Similarity]] = {
    "SGR": lambda c, num_regions: SGR(c.embed_size, c.sim_dim, num_regions, c.dropout, c.sgr_step),
    "SAF": lambda c, num_regions: SAF(c.embed_size, c.sim_dim, num_regions, c.dropout),
    "VSE": lambda c, num_regions: VSE(),
}
"""`--module_name`: name -> similarity, made from the matcher's sizes and the number of regions of an image."""
