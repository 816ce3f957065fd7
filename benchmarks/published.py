"""The published formulation, for timing: one caption at a time against all images, autograd through every pair.

This is how SGRAF, NCR and BiCro arrange the arithmetic, written anew from the equations (SGRAF, AAAI 2021, Eq. 1-9) on
the parameters of one of our matchers: same weights, same scores, without any of our savings.
Legend: I images, C captions, R regions, W words, D embed size, S sim_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from data_utils.loaders import Batch
from data_utils.precomputed import PrecomputedSplit
from models.matcher import Matcher
from models.sgraf import SAF, SGR, GraphReasoning


@dataclass(frozen=True)
class Encoded:
    """Regions (I, R, D), words (C, W, D) and lengths."""

    regions: Tensor
    words: Tensor
    lengths: list[int]


def _unit(x: Tensor, dim: int = -1) -> Tensor:
    return x / (x.pow(2).sum(dim=dim, keepdim=True).sqrt() + 1e-8)


def encode(matcher: Matcher, regions: Tensor, tokens: Tensor, lengths: Tensor) -> Encoded:
    """Encode images and captions; the GRU is torch's own."""
    encoder = matcher.caption_encoder
    packed = pack_padded_sequence(
        encoder.dropout(encoder.embed(tokens)), lengths.cpu(), batch_first=True, enforce_sorted=False
    )
    states, _ = pad_packed_sequence(encoder.cap_rnn(packed)[0], batch_first=True)
    half = states.shape[2] // 2
    words = _unit((states[:, :, :half] + states[:, :, half:]) / 2)
    return Encoded(_unit(matcher.region_encoder.fc(regions)), words, lengths.tolist())


def _attend(regions: Tensor, words: Tensor) -> Tensor:
    """Return the context (I, W, D) of one caption's words (I, W, D) in every image (I, R, D)."""
    affinity = F.leaky_relu(torch.bmm(regions, words.transpose(1, 2)), 0.1)  # (I, R, W)
    weights = torch.softmax(9.0 * _unit(affinity, dim=2).transpose(1, 2), dim=2)  # (I, W, R)
    return _unit(torch.bmm(weights, regions))


def _reason(module: SGR, nodes: Tensor) -> Tensor:
    for step in module.SGR_module:
        assert isinstance(step, GraphReasoning)
        edges = torch.softmax(torch.bmm(step.graph_query_w(nodes), step.graph_key_w(nodes).transpose(1, 2)), dim=2)
        nodes = F.relu(step.sim_graph_w(torch.bmm(edges, nodes)))
    return nodes[:, 0]


def _filter(module: SAF, nodes: Tensor) -> Tensor:
    attention = module.SAF_module
    gates = torch.sigmoid(attention.bn(attention.attn_sim_w(nodes).transpose(1, 2)))  # (I, 1, N)
    gates = gates / (gates.abs().sum(dim=2, keepdim=True) + 1e-8)
    return _unit(torch.bmm(gates, nodes).squeeze(1))


def score(matcher: Matcher, encoded: Encoded) -> Tensor:
    """Score every image against every caption, (I, C)."""
    module = matcher.similarity
    assert isinstance(module, (SGR, SAF))
    regions = encoded.regions
    image = module.v_global_w(regions, regions.mean(dim=1))
    columns = []
    for words, length in zip(encoded.words, encoded.lengths, strict=True):
        own = words[:length]
        caption = module.t_global_w(own[None], own.mean(dim=0)[None])
        repeated = own.repeat(len(regions), 1, 1)
        local = _unit(module.sim_tranloc_w((_attend(regions, repeated) - repeated).pow(2)))
        pooled = _unit(module.sim_tranglo_w((image - caption).pow(2)))
        nodes = torch.cat([pooled[:, None], local], dim=1)
        vector = _reason(module, nodes) if isinstance(module, SGR) else _filter(module, nodes)
        columns.append(torch.sigmoid(module.sim_eval_w(vector)))
    return torch.cat(columns, dim=1)


def batch_scores(matcher: Matcher, batch: Batch) -> Tensor:
    """Encode and score a training batch, (B, B)."""
    return score(matcher, encode(matcher, batch.regions, batch.tokens, batch.lengths))


def hinge(scores: Tensor, margin: float, *, hardest: bool) -> Tensor:
    """Return each pair's hinge cost (B,): over all its negatives their mean, or the hardest."""
    own = scores.diagonal()
    is_own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    rows = (margin + scores - own[:, None]).clamp(min=0).masked_fill(is_own, 0)
    columns = (margin + scores - own[None, :]).clamp(min=0).masked_fill(is_own, 0)
    return rows.amax(1) + columns.amax(0) if hardest else rows.mean(1) + columns.mean(0)


@torch.no_grad()
def evaluate(matcher: Matcher, split: PrecomputedSplit, *, block: int = 128) -> np.ndarray:
    """Score a split: one row an image for each caption is encoded, kept in float64, then shards of 100 x 100."""
    matcher.eval()
    device = next(matcher.parameters()).device
    width = int(split.lengths.max())
    regions: np.ndarray | None = None
    for start in range(0, len(split), block):
        chosen = np.arange(start, min(start + block, len(split)))
        tokens, lengths = split.tokens(chosen)
        features = split.read_images(split.image_of_caption[chosen])
        encoded = encode(matcher, features.to(device), tokens.to(device), lengths)
        if regions is None:
            regions = np.zeros((len(split), *encoded.regions.shape[1:]))
            words = np.zeros((len(split), width, encoded.words.shape[2]))
        regions[chosen] = encoded.regions.cpu().numpy()
        words[chosen, : encoded.words.shape[1]] = encoded.words.cpu().numpy()
    assert regions is not None
    images = regions[np.unique(split.image_of_caption, return_index=True)[1]]
    sims = np.zeros((len(images), len(split)))
    for i in range(0, len(images), 100):
        for j in range(0, len(split), 100):
            part = Encoded(
                torch.from_numpy(images[i : i + 100]).float().to(device),
                torch.from_numpy(words[j : j + 100]).float().to(device),
                split.lengths[j : j + 100].tolist(),
            )
            sims[i : i + 100, j : j + 100] = score(matcher, part).cpu().numpy()
    return sims
