"""Region and caption encoders of SCAN (ECCV 2018), as SGRAF, NCR, BiCro and MGCS use them.

Parameters carry the lineage's own names (`fc`, `embed`, `cap_rnn`), so that its checkpoints map one to one.
Captions are read by a GRU over packed sequences, whose backward pass on the CPU takes one product a weight, not one a
time step, as torch's own does. Here the projection of all words is one product, a step is one product and a few
in-place operations, and the backward pass walks the steps only for the gradient of the state; the gradient of a weight
is one product over all words.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise
    n = tanh(W_in x + b_in + r m),  m = W_hn h + b_hn
    h <- n + z (h - n)

Both directions run in lockstep: at its own step k the backward direction reads the k-th word from the end, so that both
have as many sequences left at step k and share the elementwise work. Inside, a step's numbers are (G, features,
sequences left): a weight times a contiguous block of that shape is the fastest product that BLAS has here.

Legend: B images or captions, R regions, W words, D embed size; of the GRU: N words of all sequences, G directions, I
input size, H hidden size; packed means step by step, the longest sequence first, as in
`torch.nn.utils.rnn.PackedSequence`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from models.attention import l2norm

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


def run_gru(gru: nn.GRU, vectors: Tensor, batch_sizes: Tensor) -> list[Tensor]:
    """Return the last layer's states, starting from zero ones.

    torch's own GRU runs off the CPU, as cuDNN is faster, and where no gradient is asked for: without one it has
    little overhead, and ours is slower at small sizes.

    Args:
        gru: holds the parameters.
        vectors: (N, I) packed.
        batch_sizes: (steps,) number of sequences that have a word at each step; on the CPU.

    Returns:
        One (N, H) for each direction, packed like `vectors`.
    """
    assert gru.bias and not gru.dropout and not gru.proj_size
    if vectors.device.type != "cpu" or not _needs_gradient(vectors, *gru.parameters()):
        states = gru(PackedSequence(vectors, batch_sizes))[0].data
        return list(states.chunk(2, dim=1)) if gru.bidirectional else [states]
    suffixes = ("", "_reverse") if gru.bidirectional else ("",)
    mirror = mirrored_positions(batch_sizes)
    outputs = [vectors]
    for layer in range(gru.num_layers):
        vectors = torch.cat(outputs, dim=1) if layer else vectors
        tensors = []
        for suffix in suffixes:
            tensors.append(vectors.index_select(0, mirror) if suffix else vectors)
            parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            tensors += [getattr(gru, f"{part}_l{layer}{suffix}") for part in parts]
        outputs = list(_Layer.apply(batch_sizes.tolist(), *tensors))
        outputs[1:] = [states.index_select(0, mirror) for states in outputs[1:]]
    return outputs


def mirrored_positions(batch_sizes: Tensor) -> Tensor:
    """Return (N,): where the word stands that is as far from its sequence's end as each word is from the start.

    Example: lengths 3 and 1, hence batch sizes (2, 1, 1), give (3, 1, 2, 0). It is its own inverse.
    """
    starts = batch_sizes.cumsum(0) - batch_sizes
    step = torch.arange(len(batch_sizes)).repeat_interleave(batch_sizes)
    sequence = torch.arange(len(step)) - starts[step]
    lengths = (batch_sizes[:, None] > torch.arange(int(batch_sizes[0]))).sum(0)
    return starts[lengths[sequence] - 1 - step] + sequence


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _steps(batch_sizes: Sequence[int]) -> Iterator[slice]:
    """Yield the packed positions of each step."""
    start = 0
    for count in batch_sizes:
        yield slice(start, start + count)
        start += count


class _Layer(torch.autograd.Function):
    """One layer, each direction over its words in its own order; torch refuses a second derivative.

    Takes, for each direction, its input (N, I), weight_ih (3H, I), weight_hh (3H, H), bias_ih (3H,), bias_hh (3H,);
    rows are r, z, n. Returns the states (N, H) of each direction.
    """

    @staticmethod
    def forward(ctx: Any, batch_sizes: list[int], *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute the states; keep the gates, n and the state before of every step."""
        inputs, w_ihs, w_hhs, b_ihs, b_hhs = (tensors[k::5] for k in range(5))
        size = w_hhs[0].shape[1]
        projected = inputs[0].new_empty(len(inputs), 3 * size, len(inputs[0]))
        for x, w_ih, b_ih, b_hh, out in zip(inputs, w_ihs, b_ihs, b_hhs, projected, strict=True):
            bias = torch.cat([b_ih[: 2 * size] + b_hh[: 2 * size], b_ih[2 * size :]])
            torch.addmm(bias[:, None], w_ih, x.t(), out=out)
        m_bias = torch.stack([b_hh[2 * size :] for b_hh in b_hhs])[:, :, None]
        states = [x.new_empty(len(x), size) for x in inputs]
        kept: list[Tensor] = []
        h = projected.new_zeros(len(inputs), size, batch_sizes[0])
        for now, count in zip(_steps(batch_sizes), batch_sizes, strict=True):
            h = h[:, :, :count].contiguous()
            gates = h.new_empty(len(inputs), 3 * size, count)
            for d, w_hh in enumerate(w_hhs):
                torch.mm(w_hh, h[d], out=gates[d])
            gates[:, : 2 * size].add_(projected[:, : 2 * size, now]).sigmoid_()
            r, z, m = gates.split(size, dim=1)
            n = torch.addcmul(projected[:, 2 * size :, now], r, m.add_(m_bias)).tanh_()
            kept += [gates, n, h]
            h = torch.lerp(n, h, z)
            for d, out in enumerate(states):
                out[now] = h[d].t()
        ctx.batch_sizes = batch_sizes
        ctx.save_for_backward(*inputs, *w_ihs, *w_hhs, *states, *kept)
        return tuple(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Walk the steps back for the gradient of the state, then take one product a weight."""
        g = len(grads)
        saved = ctx.saved_tensors  # once: under checkpointing each is there for one look
        inputs, w_ihs, w_hhs, states = (saved[k * g : (k + 1) * g] for k in range(4))
        d_gates = _gate_gradients(grads, w_hhs, saved[4 * g :], ctx.batch_sizes)
        size = w_hhs[0].shape[1]
        found: list[Tensor | None] = []
        for d in range(g):
            d_rz, d_n = d_gates[d, : 2 * size], d_gates[d, 3 * size :]
            d_input = None
            if ctx.needs_input_grad[1 + 5 * d]:
                d_input = torch.mm(d_rz.t(), w_ihs[d][: 2 * size]).addmm_(d_n.t(), w_ihs[d][2 * size :])
            d_w_ih = torch.empty_like(w_ihs[d])
            torch.mm(d_rz, inputs[d], out=d_w_ih[: 2 * size])
            torch.mm(d_n, inputs[d], out=d_w_ih[2 * size :])
            # the state before a sequence's k-th word is that of its word k - 1; before the first it is zero
            later = zip(_steps(ctx.batch_sizes), ctx.batch_sizes[1:], strict=False)
            before = torch.cat([states[d][:0], *(states[d][now][:count] for now, count in later)])
            d_w_hh = torch.mm(d_gates[d, : 3 * size, ctx.batch_sizes[0] :], before)
            sums = d_gates[d].sum(1)
            found += [d_input, d_w_ih, d_w_hh, torch.cat([sums[: 2 * size], sums[3 * size :]]), sums[: 3 * size]]
        return None, *found


def _gate_gradients(
    grads: Sequence[Tensor], w_hhs: Sequence[Tensor], kept: Sequence[Tensor], batch_sizes: list[int]
) -> Tensor:
    """Return the gradients (G, 4H, N) of what r, z and n are functions of, and of m: rows r, z, m, n.

    W_hh h has the gradients of r, z, m; W_ih x those of r, z, n.
    """
    size = w_hhs[0].shape[1]
    transposed = [w_hh.t().contiguous() for w_hh in w_hhs]  # pays for itself within a few steps
    d_gates = kept[0].new_empty(len(grads), 4 * size, len(grads[0]))
    carry = kept[0].new_zeros(len(grads), size, 0)
    for step, now in reversed(list(enumerate(_steps(batch_sizes)))):
        gates, n, h = kept[3 * step : 3 * step + 3]
        r, z, m = gates.split(size, dim=1)
        dh = torch.empty_like(h)
        for d, grad in enumerate(grads):
            dh[d] = grad[now].t()
        dh[:, :, : carry.shape[2]] += carry
        back = torch.empty_like(gates)
        d_r, d_z, d_m = back.split(size, dim=1)
        carry = dh * z
        d_n = dh.sub_(carry)
        d_n.addcmul_(d_n * n, n, value=-1)
        torch.mul(d_n, r, out=d_m)
        torch.mul(d_m, m, out=d_r)
        d_r.addcmul_(d_r, r, value=-1)
        torch.sub(h, n, out=d_z).mul_(carry)
        d_z.addcmul_(d_z, z, value=-1)
        for own, w_hh_t, product in zip(carry, transposed, back, strict=True):
            own.addmm_(w_hh_t, product)
        d_gates[:, : 3 * size, now] = back
        d_gates[:, 3 * size :, now] = d_n
    return d_gates
