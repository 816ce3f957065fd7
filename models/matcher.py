"""The matcher: region encoder, caption encoder and similarity in one module.

Legend: I images, C captions, R regions, W words, D embed size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_utils.loaders import Batch
from models.attention import masked_mean, word_mask
from models.encoders import CaptionEncoder, RegionEncoder
from models.scan import POOLINGS, SCAN
from models.sgraf import SAF, SGR
from models.similarity import CrossAttention, EncodedCaptions, EncodedImages, Similarity
from models.vse import GPO, VSE
from runtime.distributed import Share
from runtime.errors import InputError
from runtime.flags import check_choices, check_range, flag

PRECISIONS = ("fp32", "bf16")

DENSE_SHARE = 0.25
"""If more of the pairs must be scored again, scoring all of them with gradient is cheaper."""

SAFETY = 2.0
"""A score in lower precision is trusted to within so many times the largest error seen in the batch. That largest error
is taken over 2 B pairs or more, so that one beyond twice its size among B^2 is out of the question in practice."""


def _scan(c: MatcherConfig, direction: str) -> SCAN:
    return SCAN(direction, pooling=c.scan_pooling, softmax_factor=c.scan_softmax, lse_factor=c.scan_lse)


SIMILARITIES: dict[str, Callable[[MatcherConfig, int], Similarity]] = {
    "SGR": lambda c, num_regions: SGR(c.embed_size, c.sim_dim, num_regions, c.dropout, c.sgr_step),
    "SAF": lambda c, num_regions: SAF(c.embed_size, c.sim_dim, num_regions, c.dropout),
    "SCAN_t2i": lambda c, num_regions: _scan(c, "t2i"),
    "SCAN_i2t": lambda c, num_regions: _scan(c, "i2t"),
    "VSE": lambda c, num_regions: VSE(),
    "GPO": lambda c, num_regions: GPO(),
}
"""`--module_name`: name -> similarity, made from the architecture flags and the number of regions of an image."""


@dataclass(frozen=True)
class MatcherConfig:
    """Architecture flags of one network."""

    module_name: str = flag("SGR", "similarity", choices=SIMILARITIES)
    img_dim: int | None = flag(None, "dimensions of a region's features; read from the data, given it only checks")
    word_dim: int = flag(300, "dimensions of a word vector")
    embed_size: int = flag(1024, "dimensions of the joint space")
    sim_dim: int = flag(256, "dimensions of a similarity vector (SGR, SAF)")
    num_layers: int = flag(1, "GRU layers")
    sgr_step: int = flag(3, "graph reasoning steps (SGR)")
    scan_pooling: str = flag("lse", "how SCAN pools its cosines: their mean, or LogSumExp", choices=POOLINGS)
    scan_softmax: float | None = flag(
        None, "softmax factor of SCAN's attention (unset: as published, SCAN_t2i 9, SCAN_i2t 4)"
    )
    scan_lse: float | None = flag(
        None, "factor of --scan_pooling lse (unset: as published for Flickr30K, SCAN_t2i 6, SCAN_i2t 5)"
    )
    dropout: float = flag(0.4, "dropout of word vectors and of the self-attention pooling", metavar="RATIO")
    bi_gru: bool = flag(True, "read captions in both directions")
    no_imgnorm: bool = flag(False, "leave out the l2-norm of regions")
    no_txtnorm: bool = flag(False, "leave out the l2-norm of words")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("word_dim", "embed_size", "sim_dim", "num_layers", "sgr_step"):
            check_range(self, name, low=1)
        check_range(self, "dropout", low=0.0, high=1.0, high_open=True)
        for name, high in (("scan_softmax", 40.0), ("scan_lse", 1000.0)):
            if getattr(self, name) is not None:
                check_range(self, name, low=0.01, high=high)


@dataclass(frozen=True)
class MatcherShape:
    """What the data fixes: vocabulary size, regions an image, dimensions a region."""

    vocabulary_size: int
    num_regions: int
    region_dim: int


@dataclass(frozen=True)
class Embeddings:
    """Encoded images and captions, ready to be scored, and their plain means.

    Attributes:
        images: regions and what the similarity pools from them.
        captions: words and what the similarity pools from them.
        image_global: (I, D), mean of the region vectors (BiCro's and MGCS's f).
        caption_global: (C, D), mean of the valid word vectors (g).
        share: the rows that this process scores, where several share a batch.
    """

    images: EncodedImages
    captions: EncodedCaptions
    image_global: Tensor
    caption_global: Tensor
    share: Share | None = None

    def detach(self) -> Embeddings:
        """Cut the gradient."""
        return Embeddings(
            self.images.detach(),
            self.captions.detach(),
            self.image_global.detach(),
            self.caption_global.detach(),
            self.share,
        )

    def part(self, index: slice) -> Embeddings:
        """Return some of the pairs."""
        assert self.share is None
        return Embeddings(
            self.images[index], self.captions[index], self.image_global[index], self.caption_global[index]
        )


class Matcher(nn.Module):
    """Encode images and captions, score them against each other; weights are drawn from torch's global generator.

    Attributes:
        accumulate: in training, batches are encoded in so many parts; the derivative encodes each part again.
    """

    def __init__(self, config: MatcherConfig, shape: MatcherShape) -> None:
        super().__init__()
        self.region_encoder = RegionEncoder(shape.region_dim, config.embed_size, normalise=not config.no_imgnorm)
        self.caption_encoder = CaptionEncoder(
            shape.vocabulary_size,
            config.word_dim,
            config.embed_size,
            num_layers=config.num_layers,
            bi_gru=config.bi_gru,
            dropout=config.dropout,
            normalise=not config.no_txtnorm,
        )
        self.similarity = SIMILARITIES[config.module_name](config, shape.num_regions)
        self.accumulate = 1

    def encode_images(self, regions: Tensor) -> EncodedImages:
        """Encode (I, R, img_dim)."""
        return self.similarity.pool_images(self.region_encoder(regions))

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> EncodedCaptions:
        """Encode token ids (C, W) of `lengths` (C,)."""
        return self.similarity.pool_captions(self._words(tokens, lengths), lengths)

    def image_means(self, regions: Tensor) -> Tensor:
        """Return the mean region vector (I, D) of regions (I, R, img_dim)."""
        return self.region_encoder(regions).mean(dim=1)

    def caption_means(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return the mean word vector (C, D) of token ids (C, W) of `lengths` (C,)."""
        words = self._words(tokens, lengths)
        return masked_mean(words, word_mask(lengths, words.shape[1], words.device))

    def embed(self, batch: Batch) -> Embeddings:
        """Encode a batch's images and captions; of a shared batch this process's rows, and gather those of the others.

        What the similarity prepares (batch norms over all images, dropout) every process prepares of the whole batch.
        """
        share = batch.share
        regions = self._in_parts(self.region_encoder, len(batch.regions), batch.regions)
        regions = regions if share is None else share.gathered(regions)
        images = self.similarity.pool_images(regions)
        words = self._words(batch.tokens, batch.lengths, share)
        words = words if share is None else share.gathered(words)
        captions = self.similarity.pool_captions(words, batch.lengths)
        image_global = regions.mean(dim=1)
        caption_global = masked_mean(words, word_mask(batch.lengths, words.shape[1], words.device))
        if share is not None:
            image_global, caption_global = share.owned(image_global), share.owned(caption_global)
        return Embeddings(images, captions, image_global, caption_global, share)

    def _words(self, tokens: Tensor, lengths: Tensor, share: Share | None = None) -> Tensor:
        """Encode the words (B, W, D) of captions, or of this process's share of them; all draw the whole mask."""
        mask = self.caption_encoder.dropout_mask(tokens)
        if share is not None:
            tokens, lengths = tokens[share.rows], lengths[share.rows]
            mask = None if mask is None else mask[share.rows]
        if not len(tokens):
            return self.region_encoder.fc.weight.new_zeros(0, tokens.shape[1], self.region_encoder.fc.out_features)
        return self._in_parts(self.caption_encoder, len(tokens), tokens, lengths, mask)

    def _in_parts(self, encode: Callable[..., Tensor], count: int, *inputs: Tensor | None) -> Tensor:
        """Encode `count` rows of the inputs, in training in as many parts as `accumulate` says."""
        num_parts = max(1, min(self.accumulate, count)) if self.training and torch.is_grad_enabled() else 1
        if num_parts == 1:
            return encode(*inputs)
        ends = np.linspace(0, count, num_parts + 1).astype(int).tolist()
        parts = [[None if x is None else x[a:b] for x in inputs] for a, b in zip(ends, ends[1:], strict=False)]
        return torch.cat([checkpoint(encode, *part, use_reentrant=False) for part in parts])

    def score(self, embeddings: Embeddings) -> Tensor:
        """Score every image against every caption, (I, C); of a shared batch the own rows, and gather the others'."""
        images, captions, share = embeddings.images, embeddings.captions, embeddings.share
        if share is None:
            return self.similarity(images, captions)
        if self.similarity.couples_pairs:  # columns are independent, rows are not
            return share.owned(self.similarity(images, captions).t()).t()
        rows = share.rows
        if rows.start == rows.stop:
            return share.joined(images.pooled.new_zeros(0, len(captions.lengths)))
        return share.joined(self.similarity(images[rows], captions))

    def score_given(self, embeddings: Embeddings) -> Tensor:
        """Score every image against its own caption, (B,)."""
        own = torch.arange(len(embeddings.image_global), device=embeddings.image_global.device)
        return self.similarity.score_pairs(embeddings.images, embeddings.captions, own, own)


@contextmanager
def evaluating(matcher: Matcher) -> Iterator[None]:
    """Evaluation mode without gradients; the train mode is restored afterwards."""
    was_training = matcher.training
    matcher.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        matcher.train(was_training)


def hardest_loss(matcher: Matcher, embeddings: Embeddings, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `loss_of(matcher.score(embeddings))`, with the same gradient, for a loss of few scores.

    All pairs are scored without gradient, and those that the loss depends on again, with gradient. Where
    `scoring_dtype` asks for it the first look is in lower precision. Then scores that could change what the loss
    depends on are replaced by exact ones until none is left: each is shifted by the largest error up and down, and
    those that the loss then touches are scored again. What stays inexact cannot be a hardest negative.

    Args:
        matcher: the network, in train mode.
        embeddings: encoded batch, with gradient; what several processes share is scored with gradient at once.
        loss_of: (B, B) plain similarities -> scalar, monotone in each of them.
    """
    similarity = matcher.similarity
    if not isinstance(similarity, CrossAttention) or similarity.couples_pairs or embeddings.share is not None:
        return loss_of(matcher.score(embeddings))
    with torch.no_grad():
        sims = matcher.score(embeddings)
    is_exact, largest_error = torch.zeros_like(sims, dtype=torch.bool), 0.0
    wanted = torch.eye(len(sims), dtype=torch.bool, device=sims.device)
    # in lower precision the given pairs and B others first, whose errors tell how far the rest may be off
    wanted |= touched(loss_of, sims) if similarity.scoring_dtype is None else wanted.roll(1, dims=1)
    while wanted.any():
        is_exact |= wanted
        if is_exact.float().mean() > DENSE_SHARE:
            return loss_of(matcher.score(embeddings))
        pairs = wanted.nonzero(as_tuple=True)
        exact = similarity.score_pairs(embeddings.images, embeddings.captions, *pairs)
        if similarity.scoring_dtype is None:
            return loss_of(sims.index_put(pairs, exact))
        largest_error = max(largest_error, float((exact - sims[pairs]).detach().abs().max()))
        sims = sims.index_put(pairs, exact)
        shift = (SAFETY * largest_error) * ~is_exact
        wanted = (touched(loss_of, sims + shift) | touched(loss_of, sims - shift)) & ~is_exact
    return loss_of(sims)


def touched(loss_of: Callable[[Tensor], Tensor], sims: Tensor) -> Tensor:
    """Return which scores (B, B) the loss depends on, bool."""
    sims = sims.detach().requires_grad_()
    loss = loss_of(sims)
    if not loss.requires_grad:  # a loss over no pair at all is a constant
        return torch.zeros_like(sims, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(loss, sims, allow_unused=True)
    return torch.zeros_like(sims, dtype=torch.bool) if gradient is None else gradient != 0


@dataclass(frozen=True)
class ScoringConfig:
    """Flags of scoring."""

    precision: str = flag(
        "fp32",
        "scoring without gradient: fp32 or bf16; hardest negatives stay those of fp32; on CUDA bf16 also allows TF32 "
        "with gradients",
        choices=PRECISIONS,
    )

    def __post_init__(self) -> None:
        check_choices(self)


def bf16_is_supported(device: torch.device) -> bool:
    """Tell whether `device` multiplies matrices in bfloat16 by itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def prepare_scoring(matchers: Sequence[Matcher], config: ScoringConfig, device: torch.device) -> None:
    """Make matchers on `device` score as asked; gradients are always computed in the parameters' own precision.

    Raises:
        InputError: bfloat16 is asked for where there is none.
    """
    if config.precision == "fp32":
        return
    if not bf16_is_supported(device):
        raise InputError(f"--precision bf16: {device} has no bfloat16 products; use fp32")
    for matcher in matchers:
        if isinstance(matcher.similarity, CrossAttention):  # others are one product
            matcher.similarity.scoring_dtype = torch.bfloat16
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
