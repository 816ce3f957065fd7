"""SGR and SAF (SGRAF, AAAI 2021): similarity vectors of words and of the whole pair, read by a graph or by attention.

Parameters carry SGRAF's own names, so that checkpoints of the lineage map one to one.
Legend: I images, C captions, R regions, W words, D embed size, S sim_dim, N = W + 1 nodes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import (
    EPSILON,
    l2norm,
    masked_mean,
    project_differences,
    softmax_of_short_rows,
    unit_rows,
    word_mask,
)
from models.encoders import Dropout
from models.similarity import Block, CrossAttention, EncodedCaptions, EncodedImages


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
        self.embedding_local = nn.Sequential(*local, nn.Tanh(), Dropout(dropout))
        self.embedding_global = nn.Sequential(*glob, nn.Tanh(), Dropout(dropout))
        self.embedding_common = nn.Sequential(nn.Linear(size, 1))

    def forward(self, elements: Tensor, mean: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool elements (B, K, D) with their mean (B, D) to (B, D), l2-normalised; mask (B, K) names the valid ones."""
        common = self.embedding_common[0]
        gate = self.embedding_global(mean) * common.weight  # w . (local * global) = local . (global * w)
        logits = (self.embedding_local(elements) @ gate[:, :, None]).squeeze(2) + common.bias  # (B, K)
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        return l2norm(torch.einsum("bk,bkd->bd", torch.softmax(logits, dim=1), elements))


class SimilarityVectors(CrossAttention):
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

    def pool_images(self, regions: Tensor) -> EncodedImages:
        return EncodedImages(regions, self.v_global_w(regions, regions.mean(dim=1)))

    def pool_captions(self, words: Tensor, lengths: Tensor) -> EncodedCaptions:
        mask = word_mask(lengths, words.shape[1], words.device)
        return EncodedCaptions(words, lengths, self.t_global_w(words, masked_mean(words, mask), mask))

    def reader_weights(self, dtype: torch.dtype) -> list[Tensor]:
        """Return what `read` needs of the reader's parameters."""
        raise NotImplementedError

    def read(self, nodes: Tensor, weights: list[Tensor], mask: Tensor) -> Tensor:
        """Turn nodes (I, C, N, S) into vectors (I, C, S) that `sim_eval_w` scores; mask, to (I, C, N): those there."""
        raise NotImplementedError

    def block_weights(self, dtype: torch.dtype) -> list[Tensor]:
        maps = (self.sim_tranloc_w, self.sim_tranglo_w)
        projections = [t.to(dtype) for linear in maps for t in (linear.weight, linear.bias)]
        return [*projections, self.sim_eval_w.weight, self.sim_eval_w.bias, *self.reader_weights(dtype)]

    def score_block(self, weights: list[Tensor], block: Block) -> Tensor:
        local = project_differences(block.regions, block.products, block.words, *weights[:2])  # (I, C, W, S)
        squares = (block.image_pooled[:, None] - block.caption_pooled).square().to(local.dtype)  # (I, C, D)
        pooled = F.linear(squares, *weights[2:4])[:, :, None]
        nodes = torch.cat([unit_rows(pooled), unit_rows(local)], dim=2)  # s_0, s_1 .. s_W
        mask = F.pad(block.mask, (1, 0), value=True)
        vectors = self.read(nodes, weights[6:], mask)
        return torch.sigmoid(F.linear(vectors.to(block.image_pooled.dtype), *weights[4:6])).squeeze(-1)


class GraphReasoning(nn.Module):
    """One step X <- ReLU(W_g (softmax(Q(X) K(X)^T) X)) (SGRAF, Eq. 6-7)."""

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.graph_query_w = nn.Linear(sim_dim, sim_dim)
        self.graph_key_w = nn.Linear(sim_dim, sim_dim)
        self.sim_graph_w = nn.Linear(sim_dim, sim_dim)

    def weights(self, dtype: torch.dtype) -> list[Tensor]:
        """Return what `reason` needs: query and key maps merged, M (S, S) and v (S,), and the graph map.

        A term that is the same for every key does not change the softmax over keys, so that Q(x) . K(y) may be replaced
        by (M x + v) . y with M = W_k^T W_q and v = W_k^T b_q.
        """
        merged = self.graph_key_w.weight.t() @ self.graph_query_w.weight
        offset = self.graph_query_w.bias @ self.graph_key_w.weight
        return [merged.to(dtype), offset.to(dtype), self.sim_graph_w.weight.to(dtype), self.sim_graph_w.bias.to(dtype)]


def reason(nodes: Tensor, weights: list[Tensor], mask: Tensor, *, first_only: bool = False) -> Tensor:
    """Take one reasoning step: nodes (X, N, S) to (X, N, S), or to the new node 0 alone, (X, 1, S).

    X is images times captions. Rows of nodes that `mask` (X, 1, N) says are not there hold values that nothing reads.
    """
    merged, offset, graph, bias = weights
    asking = nodes[:, :1].contiguous() if first_only else nodes  # else products in bfloat16 copy the map for each row
    query = F.linear(asking, merged, offset)
    edges = softmax_of_short_rows(torch.bmm(query, nodes.transpose(1, 2)), mask)
    return F.linear(torch.bmm(edges, nodes), graph, bias).relu_()


class SGR(SimilarityVectors):
    """Similarity graph reasoning: `num_steps` steps over the nodes, then node 0 gives the score."""

    def __init__(self, embed_size: int, sim_dim: int, num_regions: int, dropout: float, num_steps: int) -> None:
        super().__init__(embed_size, sim_dim, num_regions, dropout)
        self.SGR_module = nn.ModuleList(GraphReasoning(sim_dim) for _ in range(num_steps))
        self._initialise()

    def reader_weights(self, dtype: torch.dtype) -> list[Tensor]:
        return [w for step in self.SGR_module for w in step.weights(dtype)]  # type: ignore[operator]

    def read(self, nodes: Tensor, weights: list[Tensor], mask: Tensor) -> Tensor:
        x = nodes.flatten(0, 1)  # (pairs, N, S)
        keys = mask.expand(nodes.shape[:3]).reshape(len(x), 1, -1)
        for k in range(0, len(weights), 4):  # only node 0 is read after the last step
            x = reason(x, weights[k : k + 4], keys, first_only=k + 4 == len(weights))
        return x[:, 0].view(*nodes.shape[:2], -1)


class _Attention1d(nn.Module):
    """Parameters of SAF's weights, sigmoid(BatchNorm(w . s)), l1-normalised over the nodes; `SAF.read` computes them.

    In training the BatchNorm sees one caption at a time: its statistics run over the images and nodes of that caption,
    and the running ones are updated caption after caption.
    """

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.attn_sim_w = nn.Linear(sim_dim, 1)
        self.bn = nn.BatchNorm1d(1)


class SAF(SimilarityVectors):
    """Similarity attention filtration: a weighted sum of the nodes gives the score (SGRAF, Eq. 8-9)."""

    def __init__(self, embed_size: int, sim_dim: int, num_regions: int, dropout: float) -> None:
        super().__init__(embed_size, sim_dim, num_regions, dropout)
        self.SAF_module = _Attention1d(sim_dim)
        self._initialise()
        self._seen: list[tuple[Tensor, Tensor]] = []

    @property
    def couples_pairs(self) -> bool:  # type: ignore[override]
        """In training, where a caption's statistics run over all images."""
        return self.training

    def forward(self, images: EncodedImages, captions: EncodedCaptions) -> Tensor:
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
        order = torch.argsort(lengths, stable=True)  # in which chunks take the captions
        back = torch.argsort(order).to(bn.running_mean.device)
        keep = 1 - bn.momentum
        weights = bn.momentum * keep ** torch.arange(len(order) - 1, -1, -1, device=back.device)
        for running, k in ((bn.running_mean, 0), (bn.running_var, 1)):
            values = torch.cat([seen[k] for seen in self._seen])[back]
            running.mul_(keep ** len(order)).add_((weights * values).sum())
        bn.num_batches_tracked += len(order)
        self._seen = []

    def reader_weights(self, dtype: torch.dtype) -> list[Tensor]:
        attention = self.SAF_module
        linear = [attention.attn_sim_w.weight.to(dtype), attention.attn_sim_w.bias.to(dtype)]
        return [*linear, attention.bn.weight, attention.bn.bias]

    def read(self, nodes: Tensor, weights: list[Tensor], mask: Tensor) -> Tensor:
        bn = self.SAF_module.bn
        logits = F.linear(nodes, *weights[:2]).squeeze(-1).to(weights[2].dtype)  # (I, C, N)
        if self.training:
            count = len(logits) * mask.sum(dim=1)  # (C,)
            mean = (logits * mask).sum(dim=(0, 2)) / count
            variance = ((logits - mean[:, None]) * mask).square().sum(dim=(0, 2)) / count
            self._seen.append((mean.detach(), variance.detach() * count / (count - 1).clamp(min=1)))
            mean, variance = mean[:, None], variance[:, None]
        else:
            assert bn.running_mean is not None and bn.running_var is not None
            mean, variance = bn.running_mean, bn.running_var
        scaled = (logits - mean) * torch.rsqrt(variance + bn.eps) * weights[2] + weights[3]
        gates = torch.sigmoid(scaled) * mask
        gates = gates / (gates.sum(dim=-1, keepdim=True) + EPSILON)
        return l2norm(gates.to(nodes.dtype)[:, :, None] @ nodes).squeeze(2)
