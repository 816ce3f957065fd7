"""Slow, obvious twins of the vectorised functions, written from the equations.

Everything here is a plain Python loop over captions, images, words, regions or pairs, so that a reader can
check it against the formula in its docstring. The tests compare the fast code with these twins. Rows of every
score matrix are images and columns are captions; matched pairs are on the diagonal of a square matrix. Models
and losses use torch, and so give gradients; mixtures and ranks use numpy. Each function works in the dtype of
its input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence

import numpy as np
import torch
from torch import Tensor

EPS = 1e-8
BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1


# --------------------------------------------------------------------------------------------------
# Encoders
# --------------------------------------------------------------------------------------------------


def _number(x: Tensor) -> float:
    """Value of a tensor of one element, cut off from the gradient: for comparisons and sorting only."""
    return float(x.detach())


def l2norm(x: Tensor, dim: int) -> Tensor:
    """Return x / (sqrt(sum x^2) + 1e-8) along one dimension.

    Args:
        x: any shape.
        dim: the dimension that is summed over.

    Returns:
        Same shape as ``x``.
    """
    return x / (x.pow(2).sum(dim=dim, keepdim=True).sqrt() + EPS)


def _linear(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Return W x + b of one vector (in,) or of each row of (n, in)."""
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def encode_image(state: Mapping[str, Tensor], regions: Tensor, normalise: bool = True) -> Tensor:
    """Region encoder: e_r = l2norm(W x_r + b).

    Args:
        state: ``fc.weight`` (D, img_dim) and ``fc.bias`` (D,).
        regions: (B, R, img_dim).
        normalise: False leaves the l2 norm out (``--no_imgnorm``).

    Returns:
        (B, R, D).
    """
    images = []
    for image in regions:
        rows = []
        for region in image:
            embedded = _linear(state, "fc", region)
            rows.append(l2norm(embedded, dim=0) if normalise else embedded)
        images.append(torch.stack(rows))
    return torch.stack(images)


def _gru(state: Mapping[str, Tensor], inputs: Sequence[Tensor], suffix: str) -> list[Tensor]:
    """Run one GRU direction over a list of (in,) vectors, in the order given; returns a list of (D,) states.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r (W_hn h + b_hn)),
    h' = (1 - z) n + z h. The rows of the weights are stacked in the order r, z, n.
    """
    w_ih, w_hh = state[f"cap_rnn.weight_ih_{suffix}"], state[f"cap_rnn.weight_hh_{suffix}"]
    b_ih, b_hh = state[f"cap_rnn.bias_ih_{suffix}"], state[f"cap_rnn.bias_hh_{suffix}"]
    size = w_hh.shape[1]
    hidden = w_hh.new_zeros(size)
    outputs = []
    for x in inputs:
        from_input = w_ih @ x + b_ih
        from_hidden = w_hh @ hidden + b_hh
        reset = torch.sigmoid(from_input[:size] + from_hidden[:size])
        update = torch.sigmoid(from_input[size : 2 * size] + from_hidden[size : 2 * size])
        candidate = torch.tanh(from_input[2 * size :] + reset * from_hidden[2 * size :])
        hidden = (1 - update) * candidate + update * hidden
        outputs.append(hidden)
    return outputs


def encode_captions(
    state: Mapping[str, Tensor], tokens: Tensor, lengths: Sequence[int] | Tensor, normalise: bool = True
) -> Tensor:
    """Caption encoder: embedding, GRU word by word, mean of the two directions, l2 norm per word; no dropout.

    The backward direction starts at the caption's own last word, never at padding.

    Args:
        state: ``embed.weight`` (vocabulary, word_dim) and ``cap_rnn.{weight,bias}_{ih,hh}_l0``; the same with
            ``_reverse`` for the backward direction, absent in a unidirectional encoder.
        tokens: (B, Wmax) word ids.
        lengths: (B,) number of valid words of each caption.
        normalise: False leaves the l2 norm out (``--no_txtnorm``).

    Returns:
        (B, Wmax, D), zero beyond each caption's length. Wmax is the width of ``tokens``.
    """
    size = state["cap_rnn.weight_hh_l0"].shape[1]
    captions = []
    for ids, length in zip(tokens, [int(n) for n in lengths], strict=True):
        layer_input = [state["embed.weight"][int(ids[w])] for w in range(length)]
        layer = 0
        while f"cap_rnn.weight_ih_l{layer}" in state:
            forward = _gru(state, layer_input, f"l{layer}")
            if f"cap_rnn.weight_ih_l{layer}_reverse" in state:
                backward = _gru(state, layer_input[::-1], f"l{layer}_reverse")[::-1]
                words = [(forward[w] + backward[w]) / 2 for w in range(length)]
                layer_input = [torch.cat([forward[w], backward[w]]) for w in range(length)]
            else:
                words = forward
                layer_input = forward
            layer += 1
        rows = [l2norm(word, dim=0) if normalise else word for word in words]
        padding = [words[0].new_zeros(size) for _ in range(tokens.shape[1] - length)]
        captions.append(torch.stack(rows + padding))
    return torch.stack(captions)


# --------------------------------------------------------------------------------------------------
# Similarities
# --------------------------------------------------------------------------------------------------


def _batch_norm(
    state: Mapping[str, Tensor],
    name: str,
    x: Tensor,
    training: bool,
    buffers: MutableMapping[str, Tensor] | None,
) -> Tensor:
    """Batch normalisation of (channels, values): statistics of each channel over all of its values.

    y = (x - mean) / sqrt(variance + 1e-5) weight + bias. In training mean and (biased) variance are the
    batch's, and running <- 0.9 running + 0.1 batch, with the unbiased variance; else they are the running
    statistics.
    """
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    mean_name, var_name = f"{name}.running_mean", f"{name}.running_var"
    count = x.shape[1]
    if training and count < 2:
        raise ValueError(f"{name}: more than one value per channel is needed in training, got {count}")
    rows = []
    new_mean, new_var = [], []
    for channel in range(x.shape[0]):
        values = x[channel]
        if training:
            mean = values.sum() / count
            variance = (values - mean).pow(2).sum() / count
            new_mean.append(mean.detach())
            new_var.append(variance.detach() * count / (count - 1))
        else:
            mean, variance = state[mean_name][channel], state[var_name][channel]
        rows.append((values - mean) / (variance + BATCH_NORM_EPS).sqrt() * weight[channel] + bias[channel])
    if training and buffers is not None:
        keep = 1 - BATCH_NORM_MOMENTUM
        for key, fresh in ((mean_name, new_mean), (var_name, new_var)):
            old = buffers[key] if key in buffers else state[key]
            buffers[key] = keep * old.detach() + BATCH_NORM_MOMENTUM * torch.stack(fresh)
    return torch.stack(rows)


def _image_globals(
    state: Mapping[str, Tensor], images: Tensor, training: bool, buffers: MutableMapping[str, Tensor] | None
) -> list[Tensor]:
    """Gated self-attention pooling of regions (B, R, D) -> list of B vectors (D,).

    local_r = tanh(BN_R(W_l e_r)), global = tanh(BN_D(W_g mean_r e_r)), a = softmax_r(w . (local_r * global)),
    v = l2norm(sum_r a_r e_r). BN_R has one channel a region (statistics over images and D), BN_D one channel
    a feature (statistics over images). Computed once for the whole batch.
    """
    number, regions, size = images.shape
    prefix = "v_global_w.embedding"
    local = torch.stack([_linear(state, f"{prefix}_local.0", image) for image in images])
    by_region = torch.stack([local[:, r, :].reshape(number * size) for r in range(regions)])
    by_region = _batch_norm(state, f"{prefix}_local.1", by_region, training, buffers)
    raw = torch.stack([_linear(state, f"{prefix}_global.0", image.sum(dim=0) / regions) for image in images])
    by_feature = _batch_norm(state, f"{prefix}_global.1", raw.T, training, buffers)
    pooled = []
    for i in range(number):
        gate = torch.tanh(by_feature[:, i])
        logits = []
        for r in range(regions):
            own = torch.tanh(by_region[r].reshape(number, size)[i])
            logits.append(_linear(state, f"{prefix}_common.0", own * gate)[0])
        weights = torch.softmax(torch.stack(logits), dim=0)
        pooled.append(l2norm(sum(weights[r] * images[i, r] for r in range(regions)), dim=0))
    return pooled


def _caption_global(state: Mapping[str, Tensor], words: Tensor) -> Tensor:
    """As `_image_globals` without batch normalisation, for the valid words (W, D) of one caption -> (D,)."""
    prefix = "t_global_w.embedding"
    number = words.shape[0]
    gate = torch.tanh(_linear(state, f"{prefix}_global.0", words.sum(dim=0) / number))
    logits = []
    for word in words:
        own = torch.tanh(_linear(state, f"{prefix}_local.0", word))
        logits.append(_linear(state, f"{prefix}_common.0", own * gate)[0])
    weights = torch.softmax(torch.stack(logits), dim=0)
    return l2norm(sum(weights[w] * words[w] for w in range(number)), dim=0)


def _contexts(regions: Tensor, words: Tensor, smooth: float) -> list[Tensor]:
    """Text-to-image attention of one pair: regions (R, D), valid words (W, D) -> W context vectors (D,).

    A[r, w] = LeakyReLU_0.1(<e_r, t_w>), l2 norm of each row r over the words of this caption, softmax over
    the regions of smooth * A, c_w = l2norm(sum_r A[r, w] e_r).
    """
    rows = []
    for region in regions:
        row = torch.stack([torch.dot(region, word) for word in words])
        rows.append(l2norm(torch.where(row > 0, row, 0.1 * row), dim=0))
    contexts = []
    for w in range(words.shape[0]):
        weights = torch.softmax(torch.stack([smooth * row[w] for row in rows]), dim=0)
        contexts.append(l2norm(sum(weights[r] * regions[r] for r in range(len(rows))), dim=0))
    return contexts


def _nodes(
    state: Mapping[str, Tensor],
    regions: Tensor,
    image_global: Tensor,
    words: Tensor,
    text_global: Tensor,
    smooth: float,
) -> Tensor:
    """Similarity vectors of one pair: (1 + W, sim_dim), the global one first.

    s_0 = l2norm(W_glo (v - t)^2), s_w = l2norm(W_loc (c_w - t_w)^2).
    """
    nodes = [l2norm(_linear(state, "sim_tranglo_w", (image_global - text_global).pow(2)), dim=0)]
    for word, context in zip(words, _contexts(regions, words, smooth), strict=True):
        nodes.append(l2norm(_linear(state, "sim_tranloc_w", (context - word).pow(2)), dim=0))
    return torch.stack(nodes)


def score_sgr(
    state: Mapping[str, Tensor],
    image_embeddings: Tensor,
    caption_embeddings: Tensor,
    lengths: Sequence[int] | Tensor,
    training: bool = False,
    buffers: MutableMapping[str, Tensor] | None = None,
    smooth: float = 9.0,
) -> Tensor:
    """SGR: X <- ReLU(W_g (softmax(Q(X) K(X)^T) X)) for each step, then sigmoid(w . X[0] + b).

    Args:
        state: the similarity encoder's tensors (``v_global_w.*``, ``t_global_w.*``, ``sim_tranloc_w.*``,
            ``sim_tranglo_w.*``, ``sim_eval_w.*``, ``SGR_module.k.*``); as many steps as there are ``k``.
        image_embeddings: (images, R, D).
        caption_embeddings: (captions, Wmax, D); what lies beyond a caption's length is never read.
        lengths: (captions,).
        training: batch normalisation with the batch's statistics (dropout is 0 here).
        buffers: filled in training with the running statistics after this forward pass, starting from those
            already in it, or from the state's.
        smooth: the softmax factor of the attention.

    Returns:
        (images, captions).
    """
    pooled = _image_globals(state, image_embeddings, training, buffers)
    columns = []
    for caption, length in zip(caption_embeddings, [int(n) for n in lengths], strict=True):
        words = caption[:length]
        text_global = _caption_global(state, words)
        column = []
        for i, regions in enumerate(image_embeddings):
            nodes = _nodes(state, regions, pooled[i], words, text_global, smooth)
            step = 0
            while f"SGR_module.{step}.graph_query_w.weight" in state:
                query = _linear(state, f"SGR_module.{step}.graph_query_w", nodes)
                key = _linear(state, f"SGR_module.{step}.graph_key_w", nodes)
                updated = []
                for q in query:
                    edges = torch.softmax(torch.stack([torch.dot(q, k) for k in key]), dim=0)
                    message = sum(edges[n] * nodes[n] for n in range(nodes.shape[0]))
                    updated.append(torch.relu(_linear(state, f"SGR_module.{step}.sim_graph_w", message)))
                nodes = torch.stack(updated)
                step += 1
            column.append(torch.sigmoid(_linear(state, "sim_eval_w", nodes[0])[0]))
        columns.append(torch.stack(column))
    return torch.stack(columns, dim=1)


def score_saf(
    state: Mapping[str, Tensor],
    image_embeddings: Tensor,
    caption_embeddings: Tensor,
    lengths: Sequence[int] | Tensor,
    training: bool = False,
    buffers: MutableMapping[str, Tensor] | None = None,
    smooth: float = 9.0,
) -> Tensor:
    """SAF: b = l1norm(sigmoid(BN_1(w . s))) over the nodes, then sigmoid(w' . l2norm(sum b s) + b').

    BN_1 sees one caption at a time: its statistics run over all images and all nodes of that caption, and its
    running statistics are updated once a caption, in the order of the captions.

    Args:
        state: as in `score_sgr` with ``SAF_module.{attn_sim_w,bn}.*`` in place of ``SGR_module.*``.
        image_embeddings: (images, R, D).
        caption_embeddings: (captions, Wmax, D).
        lengths: (captions,).
        training: as in `score_sgr`.
        buffers: as in `score_sgr`.
        smooth: the softmax factor of the attention.

    Returns:
        (images, captions).
    """
    pooled = _image_globals(state, image_embeddings, training, buffers)
    if buffers is not None and training:
        for key in ("SAF_module.bn.running_mean", "SAF_module.bn.running_var"):
            buffers.setdefault(key, state[key].detach().clone())
    number = image_embeddings.shape[0]
    columns = []
    for caption, length in zip(caption_embeddings, [int(n) for n in lengths], strict=True):
        words = caption[:length]
        text_global = _caption_global(state, words)
        nodes = [
            _nodes(state, regions, pooled[i], words, text_global, smooth) for i, regions in enumerate(image_embeddings)
        ]
        logits = torch.stack([_linear(state, "SAF_module.attn_sim_w", nodes[i])[:, 0] for i in range(number)])
        flat = logits.reshape(1, number * (length + 1))
        normed = _batch_norm(state, "SAF_module.bn", flat, training, buffers).reshape(number, length + 1)
        column = []
        for i in range(number):
            weights = torch.sigmoid(normed[i])
            weights = weights / (weights.abs().sum() + EPS)
            read = l2norm(sum(weights[n] * nodes[i][n] for n in range(length + 1)), dim=0)
            column.append(torch.sigmoid(_linear(state, "sim_eval_w", read)[0]))
        columns.append(torch.stack(column))
    return torch.stack(columns, dim=1)


def score_vse(image_embeddings: Tensor, caption_embeddings: Tensor, lengths: Sequence[int] | Tensor) -> Tensor:
    """VSE++: S_ij = <l2norm(mean_r e_r), l2norm(mean_w t_w)>, the second mean over valid words.

    Args:
        image_embeddings: (images, R, D).
        caption_embeddings: (captions, Wmax, D).
        lengths: (captions,).

    Returns:
        (images, captions).
    """
    rows = []
    for regions in image_embeddings:
        image = l2norm(sum(regions) / regions.shape[0], dim=0)
        row = []
        for caption, length in zip(caption_embeddings, [int(n) for n in lengths], strict=True):
            text = l2norm(sum(caption[w] for w in range(length)) / length, dim=0)
            row.append(torch.dot(image, text))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def score_scan(
    image_embeddings: Tensor,
    caption_embeddings: Tensor,
    lengths: Sequence[int] | Tensor,
    direction: str,
    pooling: str,
    softmax_factor: float,
    lse_factor: float,
) -> Tensor:
    """SCAN: pool the cosines of each word with its context in the image (t2i), or of each region with its own in the
    caption (i2t), by their mean or by (1/l) log sum exp(l cosine).

    Args:
        image_embeddings: (images, R, D).
        caption_embeddings: (captions, Wmax, D); what lies beyond a caption's length is never read.
        lengths: (captions,).
        direction: ``t2i`` or ``i2t``.
        pooling: ``mean`` or ``lse``.
        softmax_factor: lambda of the attention.
        lse_factor: l.

    Returns:
        (images, captions).
    """
    columns = []
    for caption, length in zip(caption_embeddings, [int(n) for n in lengths], strict=True):
        words = caption[:length]
        column = []
        for regions in image_embeddings:
            asking, asked = (words, regions) if direction == "t2i" else (regions, words)
            contexts = _contexts(asked, asking, softmax_factor)
            cosines = torch.stack([_cosine(a, context) for a, context in zip(asking, contexts, strict=True)])
            if pooling == "mean":
                column.append(cosines.sum() / len(cosines))
            else:
                column.append(torch.log(torch.exp(lse_factor * cosines).sum()) / lse_factor)
        columns.append(torch.stack(column))
    return torch.stack(columns, dim=1)


def gpo_weights(state: Mapping[str, Tensor], count: int) -> Tensor:
    """Weights of ranks 0 .. count - 1 (VSE-infinity): softmax(10 w . h_k) over k, h the bi-GRU's mean state at the
    position code of k, whose place 2j is sin(k / 10000^(2j/32)) and whose place 2j + 1 the cosine of the same.

    Args:
        state: ``gru.*`` (one bidirectional layer) and ``linear.weight`` (1, hidden).
        count: K, how many elements are pooled.

    Returns:
        (K,).
    """
    weight = state["linear.weight"]
    codes = []
    for k in range(count):
        code = [(math.cos if j % 2 else math.sin)(k / 10000 ** ((j - j % 2) / 32)) for j in range(32)]
        codes.append(torch.tensor(code, dtype=weight.dtype))
    gru = {f"cap_rnn.{name.removeprefix('gru.')}": tensor for name, tensor in state.items()}
    forward, backward = _gru(gru, codes, "l0"), _gru(gru, codes[::-1], "l0_reverse")[::-1]
    logits = [torch.dot(weight[0], (forward[k] + backward[k]) / 2) / 0.1 for k in range(count)]
    return torch.softmax(torch.stack(logits), dim=0)


def pool_gpo(state: Mapping[str, Tensor], elements: Tensor) -> Tensor:
    """Sort every feature of elements (K, D) by itself, the largest first, and add them up with `gpo_weights`: (D,)."""
    weights = gpo_weights(state, len(elements))
    pooled = []
    for d in range(elements.shape[1]):
        ranked = sorted(elements[:, d], key=_number, reverse=True)
        pooled.append(sum(weights[k] * ranked[k] for k in range(len(ranked))))
    return torch.stack(pooled)


def score_gpo(
    state: Mapping[str, Tensor],
    image_embeddings: Tensor,
    caption_embeddings: Tensor,
    lengths: Sequence[int] | Tensor,
) -> Tensor:
    """VSE-infinity: cosine of the pooled regions and the pooled valid words.

    Args:
        state: two poolings, ``image_gpool.*`` and ``caption_gpool.*``, each as `gpo_weights` takes it.
        image_embeddings: (images, R, D).
        caption_embeddings: (captions, Wmax, D).
        lengths: (captions,).

    Returns:
        (images, captions).
    """
    poolings = [
        {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        for prefix in ("image_gpool.", "caption_gpool.")
    ]
    images = [l2norm(pool_gpo(poolings[0], regions), dim=0) for regions in image_embeddings]
    captions = [
        l2norm(pool_gpo(poolings[1], caption[: int(length)]), dim=0)
        for caption, length in zip(caption_embeddings, lengths, strict=True)
    ]
    return torch.stack([torch.stack([torch.dot(image, caption) for caption in captions]) for image in images])


# --------------------------------------------------------------------------------------------------
# Pair costs and losses
# --------------------------------------------------------------------------------------------------


def pair_costs(
    sims: Tensor,
    margin: float | Tensor,
    image_id: Sequence[int] | Tensor | None = None,
    caption_margin: float | Tensor | None = None,
) -> dict[str, Tensor]:
    """Hinge costs of every negative: the margin belongs to the anchor.

    cost_i2t[i, j] = [a_i - S_ii + S_ij]+ (anchor image i), cost_t2i[i, j] = [a_j - S_jj + S_ij]+ (anchor
    caption j); both zero on the diagonal, and where i and j have the same ``image_id``.

    Args:
        sims: (B, B).
        margin: a number, or (B,) one margin a pair.
        image_id: (B,) ids; pairs of one image are no negatives of each other. None masks nothing.
        caption_margin: margins of caption anchors, where ``margin`` is for image anchors only.

    Returns:
        ``cost_i2t`` and ``cost_t2i``, each (B, B).
    """
    number = sims.shape[0]

    def each(given: float | Tensor) -> list[float | Tensor]:
        return [given[i] if isinstance(given, Tensor) and given.dim() > 0 else given for i in range(number)]

    margins, caption_margins = each(margin), each(margin if caption_margin is None else caption_margin)
    zero = sims.new_zeros(())
    i2t, t2i = [], []
    for i in range(number):
        i2t_row, t2i_row = [], []
        for j in range(number):
            same = i == j or (image_id is not None and int(image_id[i]) == int(image_id[j]))
            i2t_row.append(zero if same else torch.relu(margins[i] - sims[i, i] + sims[i, j]))
            t2i_row.append(zero if same else torch.relu(caption_margins[j] - sims[j, j] + sims[i, j]))
        i2t.append(torch.stack(i2t_row))
        t2i.append(torch.stack(t2i_row))
    return {"cost_i2t": torch.stack(i2t), "cost_t2i": torch.stack(t2i)}


def mean_hinge_per_pair(sims: Tensor, margin: float | Tensor, image_id: Sequence[int] | Tensor | None = None) -> Tensor:
    """Mean over negatives: l_k = sum_j cost_i2t[k, j] / B + sum_i cost_t2i[i, k] / B.

    The divisor is B, the zero diagonal (and masked entries) included, not the number of negatives.

    Args:
        sims: (B, B).
        margin: a number or (B,).
        image_id: (B,) or None, see `pair_costs`.

    Returns:
        (B,); the batch loss is its sum.
    """
    costs = pair_costs(sims, margin, image_id)
    number = sims.shape[0]
    losses = []
    for k in range(number):
        as_image = sum(costs["cost_i2t"][k, j] for j in range(number)) / number
        as_caption = sum(costs["cost_t2i"][i, k] for i in range(number)) / number
        losses.append(as_image + as_caption)
    return torch.stack(losses)


def hardest_hinge_per_pair(
    sims: Tensor, margin: float | Tensor, image_id: Sequence[int] | Tensor | None = None
) -> Tensor:
    """Hardest negative: l_k = max_j cost_i2t[k, j] + max_i cost_t2i[i, k].

    Args:
        sims: (B, B).
        margin: a number or (B,).
        image_id: (B,) or None, see `pair_costs`.

    Returns:
        (B,); the batch loss is its sum.
    """
    costs = pair_costs(sims, margin, image_id)
    losses = [costs["cost_i2t"][k, :].max() + costs["cost_t2i"][:, k].max() for k in range(sims.shape[0])]
    return torch.stack(losses)


def soft_margin(labels: Tensor, margin: float, kind: str, base: float = 10.0) -> Tensor:
    """Margin of each pair from its soft label y.

    linear a y; exponential a (m^y - 1) / (m - 1); sin a (sin(pi y - pi/2) / 2 + 1/2).

    Args:
        labels: (B,) in [0, 1].
        margin: a, the margin at y = 1.
        kind: ``linear``, ``exponential`` or ``sin``.
        base: m of the exponential.

    Returns:
        (B,).
    """
    margins = []
    for y in labels:
        if kind == "linear":
            margins.append(margin * y)
        elif kind == "exponential":
            margins.append(margin * (base**y - 1) / (base - 1))
        elif kind == "sin":
            margins.append(margin * (torch.sin(math.pi * y - math.pi / 2) / 2 + 0.5))
        else:
            raise ValueError(f"unknown soft margin {kind!r}")
    return torch.stack(margins)


def ncr_prediction(
    sims: Tensor, margin: float, image_id: Sequence[int] | Tensor | None = None, clip: bool = True
) -> Tensor:
    """NCR's correspondence prediction.

    q_k = clip(a - (mean_j cost_i2t[k, j] + mean_i cost_t2i[i, k]) / 2, 0, a), with means over all B entries;
    p_k = clip(q_k / mean of the B//10 + 1 largest q, 0, 1).

    Args:
        sims: (B, B).
        margin: a.
        image_id: (B,) or None, see `pair_costs`.
        clip: False leaves the last clip out (the sort order then has no ties at 1).

    Returns:
        (B,).
    """
    losses = mean_hinge_per_pair(sims, margin, image_id)
    scores = [torch.clamp(margin - loss / 2, 0, margin) for loss in losses]
    number = len(scores) // 10 + 1
    top = sum(sorted(scores, key=_number)[-number:]) / number
    if _number(top) == 0:
        # Every pair is beyond the margin: nothing can be said for any of them.
        return torch.zeros_like(losses)
    ratios = torch.stack([score / top for score in scores])
    return torch.clamp(ratios, 0, 1) if clip else ratios


def anchors(p: Tensor) -> tuple[Tensor, Tensor]:
    """Split a batch into anchors, the B//10 + 1 pairs of highest p, and the rest.

    Both lists are in ascending order of p; equal p in ascending order of the index, so that among ties the
    later pairs become anchors.

    Args:
        p: (B,).

    Returns:
        Indices of the anchors (B//10 + 1,) and of the rest, int64.
    """
    order = sorted(range(len(p)), key=lambda k: _number(p[k]))
    number = len(p) // 10 + 1
    return (
        torch.tensor(order[len(p) - number :], dtype=torch.int64),
        torch.tensor(order[: len(p) - number], dtype=torch.int64),
    )


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return torch.dot(l2norm(x, dim=0), l2norm(y, dim=0))


def _ratio(x: Tensor, z: Tensor) -> Tensor:
    """r(x, z) = min(x / z, z / x), and 0 when either cosine is not positive."""
    if _number(x) <= 0 or _number(z) <= 0:
        return torch.zeros_like(x)
    return torch.minimum(x / z, z / x)


def bicro_soft_labels(
    img_global: Tensor, txt_global: Tensor, anchor_img_global: Tensor, anchor_txt_global: Tensor
) -> Tensor:
    """BiCro's y* of each pair u from its nearest anchors.

    a = nearest anchor by image, b = nearest anchor by caption (cosine; the first one of equals);
    y* = [ r(cosI(u, a), cosT(u, a)) + r(cosT(u, b), cosI(u, b)) ] / 2, clipped to [0, 1].

    Args:
        img_global: (B, D) mean region vectors of the pairs to label.
        txt_global: (B, D) mean word vectors of the same pairs.
        anchor_img_global: (K, D) of the anchors (those of the clean-side batch, for both sides).
        anchor_txt_global: (K, D).

    Returns:
        (B,).
    """
    number = anchor_img_global.shape[0]
    labels = []
    for image, text in zip(img_global, txt_global, strict=True):
        by_image = [_cosine(image, anchor_img_global[k]) for k in range(number)]
        by_text = [_cosine(text, anchor_txt_global[k]) for k in range(number)]
        a = max(range(number), key=lambda k: _number(by_image[k]))
        b = max(range(number), key=lambda k: _number(by_text[k]))
        y = (_ratio(by_image[a], by_text[a]) + _ratio(by_text[b], by_image[b])) / 2
        labels.append(torch.clamp(y, 0, 1))
    return torch.stack(labels)


def bicro_clean_labels(img_global: Tensor, txt_global: Tensor, anchor_idx: Sequence[int] | Tensor) -> Tensor:
    """Clean-side labels: 1 for the anchors of the batch, 0.5 + y*/2 for each other pair (its own y*).

    Args:
        img_global: (B, D) of the clean-side batch.
        txt_global: (B, D).
        anchor_idx: (K,) positions of the anchors in this batch.

    Returns:
        (B,).
    """
    chosen = [int(k) for k in anchor_idx]
    anchor_img = torch.stack([img_global[k] for k in chosen])
    anchor_txt = torch.stack([txt_global[k] for k in chosen])
    soft = bicro_soft_labels(img_global, txt_global, anchor_img, anchor_txt)
    return torch.stack([torch.ones_like(y) if u in chosen else 0.5 + y / 2 for u, y in enumerate(soft)])


def bicro_noisy_labels(
    img_global: Tensor,
    txt_global: Tensor,
    anchor_img_global: Tensor,
    anchor_txt_global: Tensor,
    noise_train: str = "train",
    noise_tem: float = 0.5,
) -> Tensor:
    """Noisy-side labels: y* against the anchors of the *clean-side* batch of the same step.

    ``noise_soft`` sets labels <= ``noise_tem`` to 0; ``train`` and ``noise_hard`` leave them (the latter
    drops those pairs from the loss, see `bicro_noisy_keep`).

    Args:
        img_global: (B, D) of the noisy-side batch.
        txt_global: (B, D).
        anchor_img_global: (K, D) of the clean-side batch's anchors.
        anchor_txt_global: (K, D).
        noise_train: ``train``, ``noise_soft`` or ``noise_hard``.
        noise_tem: the threshold.

    Returns:
        (B,).
    """
    if noise_train not in ("train", "noise_soft", "noise_hard"):
        raise ValueError(f"unknown noise_train {noise_train!r}")
    labels = []
    for y in bicro_soft_labels(img_global, txt_global, anchor_img_global, anchor_txt_global):
        labels.append(torch.zeros_like(y) if noise_train == "noise_soft" and _number(y) <= noise_tem else y)
    return torch.stack(labels)


def bicro_noisy_keep(labels: Tensor, noise_train: str = "train", noise_tem: float = 0.5) -> Tensor:
    """Which noisy-side pairs enter the loss: ``noise_hard`` drops labels <= ``noise_tem``, others keep all.

    Args:
        labels: (B,) from `bicro_noisy_labels`.
        noise_train: ``train``, ``noise_soft`` or ``noise_hard``.
        noise_tem: the threshold.

    Returns:
        (B,) bool.
    """
    return torch.tensor([noise_train != "noise_hard" or _number(y) > noise_tem for y in labels])


# --------------------------------------------------------------------------------------------------
# Mixtures
# --------------------------------------------------------------------------------------------------


def _beta_pdf(x: float, alpha: float, beta: float) -> float:
    """x^(alpha - 1) (1 - x)^(beta - 1) / B(alpha, beta), with its limits at 0 and 1."""
    if x <= 0 or x >= 1:
        own, other = (alpha, beta) if x <= 0 else (beta, alpha)
        return math.inf if own < 1 else (other if own == 1 else 0.0)
    log_b = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)
    return math.exp((alpha - 1) * math.log(x) + (beta - 1) * math.log1p(-x) - log_b)


def beta_mixture(loss: np.ndarray, iterations: int = 10, monotone: bool = False) -> dict[str, np.ndarray]:
    """Two-component beta mixture by EM.

    x = (loss - min) / (max - min). The fit sees x clipped to [1e-4, 1 - 1e-4]. Start: (alpha, beta) = (1, 2)
    and (2, 1), weights 1/2. Each iteration is one E-step, then one M-step:

    - E: joint_k = max(weight_k pdf_k(x), 1e-12), responsibility_k = joint_k / sum_k joint_k;
    - M: per component mean m and variance s2 of x weighted by the responsibilities (divided by their sum),
      alpha = m (m (1 - m) / s2 - 1), beta = alpha (1 - m) / m; weight = share of the total responsibility.

    Posterior: joint_c / (joint_c + joint_n + 1e-12) at the *unclipped* x, without the lower bound, c being
    the component of lower mean. Where that is not finite (x exactly 0 or 1 with a parameter below 1) the
    clipped x is used instead.

    The posterior of two betas need not fall with the loss: their log ratio can turn once, and at x = 0 with
    both alphas above 1 it is 0/1e-12 = 0. ``monotone`` repairs this: pairs with a smaller loss than the most
    probable one get its probability, and from there on the running minimum is taken.

    Args:
        loss: (N,) finite, not constant.
        iterations: EM iterations.
        monotone: make the posterior non-increasing in the loss.

    Returns:
        ``alphas`` (2,), ``betas`` (2,), ``weights`` (2,), ``clean_probability`` (N,), all float64.
    """
    loss = np.asarray(loss, dtype=np.float64)
    if not np.isfinite(loss).all():
        raise ValueError("the loss has values that are not finite")
    low, high = float(loss.min()), float(loss.max())
    if low == high:
        raise ValueError("the loss is constant: there is nothing to fit")
    scaled = [(float(value) - low) / (high - low) for value in loss]
    clipped = [min(max(x, 1e-4), 1 - 1e-4) for x in scaled]
    alphas, betas, weights = [1.0, 2.0], [2.0, 1.0], [0.5, 0.5]
    for _ in range(iterations):
        responsibility: list[list[float]] = [[], []]
        for x in clipped:
            joint = [max(weights[k] * _beta_pdf(x, alphas[k], betas[k]), 1e-12) for k in range(2)]
            for k in range(2):
                responsibility[k].append(joint[k] / (joint[0] + joint[1]))
        totals = [math.fsum(responsibility[k]) for k in range(2)]
        for k in range(2):
            mean = math.fsum(r * x for r, x in zip(responsibility[k], clipped, strict=True)) / totals[k]
            squares = math.fsum(r * (x - mean) ** 2 for r, x in zip(responsibility[k], clipped, strict=True))
            variance = squares / totals[k]
            alphas[k] = mean * (mean * (1 - mean) / variance - 1)
            betas[k] = alphas[k] * (1 - mean) / mean
        weights = [totals[k] / sum(totals) for k in range(2)]
    means = [alphas[k] / (alphas[k] + betas[k]) for k in range(2)]
    clean = 0 if means[0] <= means[1] else 1
    probability = []
    for x in scaled:
        joint = [weights[k] * _beta_pdf(x, alphas[k], betas[k]) for k in range(2)]
        if not math.isfinite(sum(joint)):
            inside = min(max(x, 1e-4), 1 - 1e-4)
            joint = [weights[k] * _beta_pdf(inside, alphas[k], betas[k]) for k in range(2)]
        probability.append(joint[clean] / (joint[0] + joint[1] + 1e-12))
    if monotone:
        order = sorted(range(len(scaled)), key=lambda k: scaled[k])
        peak = max(probability)
        first = next(n for n, k in enumerate(order) if probability[k] == peak)
        current = peak
        for n, k in enumerate(order):
            current = peak if n <= first else min(current, probability[k])
            probability[k] = current
    return {
        "alphas": np.array(alphas),
        "betas": np.array(betas),
        "weights": np.array(weights),
        "clean_probability": np.array(probability),
    }


# --------------------------------------------------------------------------------------------------
# DSDMR
# --------------------------------------------------------------------------------------------------


def _normal_pdf(x: float, mean: float, variance: float) -> float:
    """exp(-(x - m)^2 / (2 v)) / sqrt(2 pi v)."""
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def pair_similarity(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Cosine of each pair: <f_i, g_i> / (|f_i| |g_i|).

    Args:
        images: (n, D).
        captions: (n, D).

    Returns:
        (n,) float64.
    """
    cosines = []
    for f, g in zip(images, captions, strict=True):
        product = math.fsum(float(a) * float(b) for a, b in zip(f, g, strict=True))
        lengths = [math.sqrt(math.fsum(float(a) ** 2 for a in vector)) for vector in (f, g)]
        cosines.append(product / (lengths[0] * lengths[1]))
    return np.array(cosines)


def two_gaussians_em_step(
    x: Sequence[float] | np.ndarray,
    weights: Sequence[float],
    means: Sequence[float],
    variances: Sequence[float],
    extra_variance: float = 0.0,
) -> dict[str, np.ndarray | float]:
    """One EM step of a mixture of two Gaussians.

    - E: responsibility_k(i) = weight_k pdf_k(x_i) / sum_l weight_l pdf_l(x_i);
    - M: weight = mean responsibility, mean and variance weighted by it, plus ``extra_variance``.

    Args:
        x: (n,).
        weights: (2,).
        means: (2,).
        variances: (2,).
        extra_variance: added to both variances.

    Returns:
        ``weights``, ``means``, ``variances`` (2,) after the step, ``log_likelihood`` the mean of log p(x_i) before it.
    """
    shares: list[list[float]] = [[], []]
    logs = []
    for value in x:
        joint = [weights[k] * _normal_pdf(float(value), means[k], variances[k]) for k in range(2)]
        logs.append(math.log(joint[0] + joint[1]))
        for k in range(2):
            shares[k].append(joint[k] / (joint[0] + joint[1]))
    new_weights, new_means, new_variances = [], [], []
    for share in shares:
        mass = math.fsum(share)
        mean = math.fsum(r * float(value) for r, value in zip(share, x, strict=True)) / mass
        squares = math.fsum(r * (float(value) - mean) ** 2 for r, value in zip(share, x, strict=True))
        new_weights.append(mass / len(x))
        new_means.append(mean)
        new_variances.append(squares / mass + extra_variance)
    return {
        "weights": np.array(new_weights),
        "means": np.array(new_means),
        "variances": np.array(new_variances),
        "log_likelihood": math.fsum(logs) / len(x),
    }


def modes_posterior(
    similarity: Sequence[float] | np.ndarray, clean: tuple[float, float], noisy: tuple[float, float], prior: float
) -> np.ndarray:
    """P(clean | s) = p N(s; clean) / (p N(s; clean) + (1 - p) N(s; noisy)), made non-decreasing in s.

    Unequal variances turn the plain posterior round once. Clean narrower: it falls beyond its peak, and the running
    maximum from low s to high s repairs it. Clean broader: it falls up to its lowest point, and the running minimum
    from high s to low s does. Both are exact where a similarity lies on the turn.

    Args:
        similarity: (n,).
        clean: mean and standard deviation.
        noisy: mean and standard deviation.
        prior: p.

    Returns:
        (n,).
    """
    plain = []
    for s in similarity:
        own = prior * _normal_pdf(float(s), clean[0], clean[1] ** 2)
        other = (1 - prior) * _normal_pdf(float(s), noisy[0], noisy[1] ** 2)
        plain.append(own / (own + other))
    order = sorted(range(len(plain)), key=lambda i: float(similarity[i]))
    if clean[1] > noisy[1]:
        order.reverse()
    bound = plain[order[0]]
    for i in order:
        bound = min(bound, plain[i]) if clean[1] > noisy[1] else max(bound, plain[i])
        plain[i] = bound
    return np.array(plain)


# --------------------------------------------------------------------------------------------------
# MGCS
# --------------------------------------------------------------------------------------------------


def drift_factors_bank(
    f: Tensor,
    g: Tensor,
    bank_f: Tensor,
    bank_g: Tensor,
    n: int,
    own_idx: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Alignment factors with neighbours from a bank.

    m_i = mean of d_vv = bank_f_v - bank_g_v over the n images v of the bank nearest to f_i (cosine on f; of
    equals the one of lower index first), bank row own_idx_i left out; F_ij = cos(f_i - g_j, m_i). With fewer
    than n rows all of them are used; with none at all F = 1, no correction.

    Args:
        f: (B, D) global image vectors.
        g: (B', D) global caption vectors.
        bank_f: (N, D).
        bank_g: (N, D), the captions given with the bank's images.
        n: number of neighbours.
        own_idx: (B,) the bank row of image i itself; negative, or None for all, leaves nothing out.

    Returns:
        (B, B').
    """
    rows = []
    for i in range(f.shape[0]):
        own = -1 if own_idx is None else int(own_idx[i])
        candidates = [v for v in range(bank_f.shape[0]) if v != own]
        candidates.sort(key=lambda v: -_number(_cosine(f[i], bank_f[v])))
        nearest = candidates[:n]
        if not nearest:
            rows.append(f.new_ones(g.shape[0]))
            continue
        mean_drift = sum(bank_f[v] - bank_g[v] for v in nearest) / len(nearest)
        rows.append(torch.stack([_cosine(f[i] - g[j], mean_drift) for j in range(g.shape[0])]))
    return torch.stack(rows)


def drift_factors(f: Tensor, g: Tensor, n: int, own: bool = False) -> Tensor:
    """Alignment factors with neighbours from the batch itself: F_ij = cos(f_i - g_j, m_i).

    m_i = mean of d_vv = f_v - g_v over the n nearest images v of image i (cosine on f).

    Args:
        f: (B, D) global image vectors.
        g: (B, D) global caption vectors of the same pairs.
        n: number of neighbours.
        own: True lets image i be its own neighbour (it then always is the nearest); False leaves it out.

    Returns:
        (B, B).
    """
    return drift_factors_bank(f, g, f, g, n, None if own else range(f.shape[0]))


def mgcs_division_signal(
    sims: Tensor,
    f: Tensor,
    g: Tensor,
    anchor_idx: Sequence[int] | Tensor,
    margin: float = 0.2,
    dynamic_margin: float = 0.04,
    beta: float = 0.2,
    delta: float = 0.5,
    n: int = 5,
    own: bool = False,
    balance_weight: float | None = None,
    factors: Tensor | None = None,
    corrected_residual: bool = False,
    image_id: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """MGCS's division signal: l_div(u) = l_tri(S')_u + beta l_dr(u), with S' = S * F elementwise.

    l_tri is the mean hinge per pair on S'. Over the batch's anchors a,
    l_dr(u) = mean_a [ (l_a + l_u) / 2 - a_dy ]+ + gamma |f_u - g_u|^2, where
    l_a = ((s_aa - s_au) - (s_aa - s_ua))^2, l_u = ((s_uu - s_ua) - (s_uu - s_au))^2,
    a_dy = a2 (1 - cos(f_u, g_u)) and gamma = beta a2 (1 - delta / a1). Anchors are part of their own mean.

    Args:
        sims: (B, B).
        f: (B, D) global image vectors.
        g: (B, D) global caption vectors.
        anchor_idx: (K,).
        margin: a1.
        dynamic_margin: a2.
        beta: weight of l_dr.
        delta: in gamma.
        n: neighbours of `drift_factors`.
        own: see `drift_factors`.
        balance_weight: gamma itself, in place of the formula.
        factors: (B, B) F from elsewhere (a bank), in place of `drift_factors`.
        corrected_residual: take the s of l_a and l_u from S' instead of S.
        image_id: (B,) or None, see `pair_costs`.

    Returns:
        (B,).
    """
    if factors is None:
        factors = drift_factors(f, g, n, own)
    number = sims.shape[0]
    corrected = torch.stack([torch.stack([sims[i, j] * factors[i, j] for j in range(number)]) for i in range(number)])
    triplet = mean_hinge_per_pair(corrected, margin, image_id)
    gamma = beta * dynamic_margin * (1 - delta / margin) if balance_weight is None else balance_weight
    s = corrected if corrected_residual else sims
    signal = []
    for u in range(number):
        dynamic = dynamic_margin * (1 - _cosine(f[u], g[u]))
        balance = gamma * (f[u] - g[u]).pow(2).sum()
        terms = []
        for a in [int(k) for k in anchor_idx]:
            l_a = ((s[a, a] - s[a, u]) - (s[a, a] - s[u, a])).pow(2)
            l_u = ((s[u, u] - s[u, a]) - (s[u, u] - s[a, u])).pow(2)
            terms.append(torch.relu((l_a + l_u) / 2 - dynamic) + balance)
        signal.append(triplet[u] + beta * (sum(terms) / len(terms)))
    return torch.stack(signal)


# --------------------------------------------------------------------------------------------------
# Evaluation
# --------------------------------------------------------------------------------------------------


def _rank_summary(positions: Sequence[int]) -> dict[str, float]:
    """Recalls, floor(median) + 1 and mean + 1 of positions that count from 0."""
    summary = {f"r{k}": 100.0 * sum(p < k for p in positions) / len(positions) for k in (1, 5, 10)}
    ordered = sorted(positions)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    summary["median"] = float(math.floor(median) + 1)
    summary["mean"] = sum(positions) / len(positions) + 1.0
    return summary


def ranks(sims: np.ndarray, image_of_caption: Sequence[int] | np.ndarray) -> dict[str, dict[str, float]]:
    """Recalls and ranks in both directions; a tied wrong item counts as ranked before the right one.

    Position (from 0) of a query = number of wrong items whose score is not below that of the right one. i2t:
    the best-scored caption of the image is the right one, its other captions are not wrong; images without a
    caption are no queries. t2i: the caption's image. A NaN is taken as the worst for us: before, on a wrong
    item, last on a right one. R@k = percentage of positions < k; median rank = floor(median position) + 1;
    mean rank = mean + 1.

    Args:
        sims: (images, captions).
        image_of_caption: (captions,) row of each caption's image.

    Returns:
        ``{"i2t": {...}, "t2i": {...}}``, each with ``r1``, ``r5``, ``r10``, ``median``, ``mean``.
    """
    images, captions = sims.shape
    owner = [int(i) for i in image_of_caption]
    i2t = []
    for i in range(images):
        right = [float(sims[i, j]) for j in range(captions) if owner[j] == i]
        if not right:
            continue
        best = max(-math.inf if math.isnan(score) else score for score in right)
        i2t.append(sum(1 for j in range(captions) if owner[j] != i and not float(sims[i, j]) < best))
    t2i = []
    for j in range(captions):
        right_score = float(sims[owner[j], j])
        best = -math.inf if math.isnan(right_score) else right_score
        t2i.append(sum(1 for i in range(images) if i != owner[j] and not float(sims[i, j]) < best))
    return {"i2t": _rank_summary(i2t), "t2i": _rank_summary(t2i)}
