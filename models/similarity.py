"""What a similarity is, and how all pairs, or a list of pairs, are scored a chunk at a time.

A similarity prepares images and captions once each, and then scores images against captions. VSE and GPO are one
product. SGR, SAF and SCAN look at every image beside every caption, which would not fit into memory for a whole batch:
captions are sorted by length and cut into chunks, each is scored against a block of images, and the padding of shorter
captions is kept out of every norm and softmax. A list of pairs is cut into chunks in the same way.

The derivative scores a chunk again, with gradient this time, and leaves it at once, so that never more than one chunk
is in memory. Pairs that the loss gives no gradient are not scored again: with hardest negatives at most 3 B of B^2
pairs have any. Randomness (dropout) happens before scoring, so that both passes see the same.
Legend: I images, C captions, P pairs, R regions, W words, D embed size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.attention import gram, word_mask

CHUNK_NUMBERS = {"cpu": 2**22, "cuda": 2**26}
"""The largest temporary of a chunk, images x words x D, has about so many numbers, by kind of device. 16 MiB on a
processor keep its products large (benchmarks/RESULTS.md has the figures from 2^21 to 2^23)."""

COUPLED_NUMBERS = 2**29
"""Where pairs are coupled and all have gradient, a batch of up to so many images x words x D is kept in one graph: for
SAF at published sizes and batch 128 (2^28) about 1.3 GiB. Larger ones are scored again chunk by chunk."""

FEWEST_WORDS, FEWEST_IMAGES = 64, 16
"""A chunk has at least so many words and images, if there are so many."""

PADDING = 0.15
"""Share of a chunk's words that may be padding."""

LISTED_SHARE = 0.75
"""Up to this share of all pairs the derivative goes through a list of those that have gradient."""


@dataclass(frozen=True)
class EncodedImages:
    """Images ready for scoring: regions (I, R, D) and one vector each (I, D)."""

    regions: Tensor
    pooled: Tensor

    def __getitem__(self, index: slice | Tensor) -> EncodedImages:
        return EncodedImages(self.regions[index], self.pooled[index])

    def detach(self) -> EncodedImages:
        """Cut the gradient."""
        return EncodedImages(self.regions.detach(), self.pooled.detach())


@dataclass(frozen=True)
class EncodedCaptions:
    """Captions ready for scoring: words (C, W, D), lengths (C,) on the CPU, one vector each (C, D)."""

    words: Tensor
    lengths: Tensor
    pooled: Tensor

    def __getitem__(self, index: slice | Tensor) -> EncodedCaptions:
        return EncodedCaptions(self.words[index], self.lengths[index], self.pooled[index])

    def detach(self) -> EncodedCaptions:
        """Cut the gradient."""
        return EncodedCaptions(self.words.detach(), self.lengths, self.pooled.detach())


class Similarity(nn.Module):
    """Base: pooled vectors of images and captions, and scores of all pairs or of a list of them."""

    couples_pairs = False
    """True where, in training, a pair's score depends on the other pairs of its caption."""

    scoring_dtype: torch.dtype | None = None
    """What the large products of `forward` are computed in while no gradient is asked for; None: as everything else."""

    def pool_images(self, regions: Tensor) -> EncodedImages:
        """Prepare images (I, R, D)."""
        raise NotImplementedError

    def pool_captions(self, words: Tensor, lengths: Tensor) -> EncodedCaptions:
        """Prepare captions (C, W, D) of `lengths` (C,)."""
        raise NotImplementedError

    def forward(self, images: EncodedImages, captions: EncodedCaptions) -> Tensor:
        """Score every image against every caption, (I, C)."""
        raise NotImplementedError

    def score_pairs(self, images: EncodedImages, captions: EncodedCaptions, image: Tensor, caption: Tensor) -> Tensor:
        """Score image number (P,) against caption number (P,), (P,), in full precision."""
        raise NotImplementedError


class Block(NamedTuple):
    """Images against captions: every image against every caption, or image i against caption i alone.

    Attributes:
        regions: (I, R, D).
        products: (I, R, R), `gram(regions)`.
        image_pooled: (I, D).
        words: (C, W, D), zero beyond each caption's end; or (I, 1, W, D) where image i meets caption i alone.
        caption_pooled: (C, D), or (I, 1, D).
        mask: (C, W) bool, or (I, 1, W), the words that are there.
    """

    regions: Tensor
    products: Tensor
    image_pooled: Tensor
    words: Tensor
    caption_pooled: Tensor
    mask: Tensor


Pairs = tuple[Tensor, Tensor]
"""Image numbers (P,) and caption numbers (P,), on the CPU."""


class Chunk(NamedTuple):
    """What is scored at a time.

    Attributes:
        images: a slice of images; of a list of pairs the number of each pair's image.
        captions: (C,) numbers of captions; of a list of pairs each pair's.
        place: where the scores belong in the whole result.
    """

    images: slice | Tensor
    captions: Tensor
    place: Any


def split_by_length(lengths: Tensor, words: int) -> Iterator[Tensor]:
    """Sort by length and yield the numbers of consecutive captions whose words, padding counted, are at most `words`.

    No more than a share of `PADDING` of the words is padding. A caption that is longer than `words` is alone.
    """
    order = torch.argsort(lengths, stable=True)
    ordered = lengths[order]
    start = 0
    while start < len(order):
        rest = ordered[start:]
        padded = rest * torch.arange(1, len(rest) + 1)
        fits = (padded <= words) & (rest.cumsum(0) >= (1 - PADDING) * padded)
        end = start + (int(fits.nonzero()[-1]) + 1 if fits.any() else 1)
        yield order[start:end]
        start = end


class CrossAttention(Similarity):
    """Base of similarities that look at every image beside every caption; subclasses score a block."""

    def block_weights(self, dtype: torch.dtype) -> list[Tensor]:
        """Return everything that `score_block` needs of the parameters, large maps in `dtype`."""
        raise NotImplementedError

    def score_block(self, weights: list[Tensor], block: Block) -> Tensor:
        """Return the scores of a block, (I, C) or, of single pairs, (I, 1)."""
        raise NotImplementedError

    def forward(self, images: EncodedImages, captions: EncodedCaptions) -> Tensor:
        return self._scores_of(images, captions, None, len(images.regions) * int(captions.lengths.sum()))

    def score_pairs(self, images: EncodedImages, captions: EncodedCaptions, image: Tensor, caption: Tensor) -> Tensor:
        if self.couples_pairs:
            return self(images, captions)[image, caption]
        pairs = (image.cpu(), caption.cpu())
        return self._scores_of(images, captions, pairs, int(captions.lengths[pairs[1]].sum()))

    def _scores_of(
        self, images: EncodedImages, captions: EncodedCaptions, pairs: Pairs | None, num_words: int
    ) -> Tensor:
        """Score all pairs, or a list of them that has `num_words` words, with the derivative that fits memory."""
        tensors, lengths = (images.regions, images.pooled, captions.words, captions.pooled), captions.lengths
        if not torch.is_grad_enabled():
            return self._scores(tensors, lengths, pairs, self.scoring_dtype if pairs is None else None)
        limit = COUPLED_NUMBERS if self.couples_pairs else _chunk_numbers(images.regions)
        if num_words * images.regions.shape[2] <= limit:
            return self._scores(tensors, lengths, pairs, None)  # one graph: nothing is scored twice
        return _Scores.apply(self, lengths, pairs, *tensors, *self.parameters())

    def _chunks(self, lengths: Tensor, regions: Tensor, pairs: Pairs | None) -> Iterator[Chunk]:
        numbers, count = _chunk_numbers(regions) // regions.shape[2], len(regions)
        if pairs is not None:  # their regions are gathered and weigh as well
            for members in split_by_length(lengths[pairs[1]], numbers // 4):
                yield Chunk(pairs[0][members], pairs[1][members], members)
            return
        images = count if self.couples_pairs else min(count, max(FEWEST_IMAGES, numbers // FEWEST_WORDS))
        blocks = torch.arange(count).tensor_split(-(-count // images))
        for captions in split_by_length(lengths, max(FEWEST_WORDS, numbers // images)):
            for block in blocks:
                own = slice(int(block[0]), int(block[-1]) + 1)
                yield Chunk(own, captions, (own, captions))

    def _scores(
        self, tensors: tuple[Tensor, ...], lengths: Tensor, pairs: Pairs | None, dtype: torch.dtype | None
    ) -> Tensor:
        """Score chunk by chunk, large products in `dtype`; under autograd everything stays in one graph."""
        regions, image_pooled, words, caption_pooled = tensors
        weights, products = self.block_weights(dtype or regions.dtype), gram(regions)
        sims = regions.new_zeros((len(regions), len(lengths)) if pairs is None else len(pairs[0]))
        if dtype is not None:
            regions, words = regions.to(dtype), words.to(dtype)
        whole = (regions, products, image_pooled, words, caption_pooled)
        for chunk in self._chunks(lengths, regions, pairs):
            scores = self.score_block(weights, _block(whole, lengths, chunk))
            sims[chunk.place] = scores.view_as(sims[chunk.place]).to(sims.dtype)
        return sims


def _chunk_numbers(regions: Tensor) -> int:
    return CHUNK_NUMBERS.get(regions.device.type, CHUNK_NUMBERS["cpu"])


def _block(whole: tuple[Tensor, ...], lengths: Tensor, chunk: Chunk) -> Block:
    """Take a chunk's part of (regions, products, image_pooled, words, caption_pooled)."""
    regions, products, image_pooled, words, caption_pooled = whole
    own, captions = lengths[chunk.captions], chunk.captions.to(words.device)
    images = chunk.images if isinstance(chunk.images, slice) else chunk.images.to(words.device)
    mask = word_mask(own, int(own.max()), words.device)
    words = words[captions, : mask.shape[1]].masked_fill(~mask[:, :, None], 0.0)
    caption_pooled = caption_pooled[captions]
    if not isinstance(images, slice):
        words, caption_pooled, mask = words[:, None], caption_pooled[:, None], mask[:, None]
    return Block(regions[images], products[images], image_pooled[images], words, caption_pooled, mask)


def _add(totals: list[Tensor], chunk: Chunk, parts: tuple[Tensor, ...]) -> None:
    """Add a chunk's gradients, of the first five fields of its block, to those of the whole."""
    captions = chunk.captions.to(totals[0].device)
    for total, part in zip(totals[:3], parts[:3], strict=True):
        if isinstance(chunk.images, slice):
            total[chunk.images] += part
        else:
            total.index_add_(0, chunk.images.to(total.device), part)
    words, pooled = parts[3:] if isinstance(chunk.images, slice) else (part.squeeze(1) for part in parts[3:])
    totals[3][:, : words.shape[1]].index_add_(0, captions, words)
    totals[4].index_add_(0, captions, pooled)


class _Scores(torch.autograd.Function):
    """Scores whose derivative is taken a chunk at a time, of those pairs alone that have gradient."""

    @staticmethod
    def forward(ctx: Any, similarity: CrossAttention, lengths: Tensor, pairs: Pairs | None, *tensors: Tensor) -> Tensor:
        ctx.similarity, ctx.lengths, ctx.pairs = similarity, lengths, pairs
        ctx.save_for_backward(*tensors)
        return similarity._scores(tensors[:4], lengths, pairs, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        similarity, lengths, pairs = ctx.similarity, ctx.lengths, ctx.pairs
        regions, image_pooled, words, caption_pooled = (t.detach() for t in ctx.saved_tensors[:4])
        parameters = ctx.saved_tensors[4:]
        has_gradient = gradient != 0
        touched = has_gradient.cpu().nonzero(as_tuple=True)
        if pairs is not None:
            pairs, gradient = (pairs[0][touched[0]], pairs[1][touched[0]]), gradient[has_gradient]
        elif not similarity.couples_pairs and len(touched[0]) <= LISTED_SHARE * gradient.numel():
            pairs, gradient = touched, gradient[has_gradient]
        with torch.enable_grad():
            made = similarity.block_weights(regions.dtype)
        weights = [w.detach().requires_grad_() for w in made]
        weight_sums = [torch.zeros_like(w) for w in weights]
        whole = (regions, gram(regions), image_pooled, words, caption_pooled)
        sums = [torch.zeros_like(t) for t in whole]
        for chunk in similarity._chunks(lengths, regions, pairs):
            block = _block(whole, lengths, chunk)
            inputs = [t.detach().requires_grad_() for t in block[:5]]
            with torch.enable_grad():
                scores = similarity.score_block(weights, Block._make([*inputs, block.mask]))
            own = gradient[chunk.place].view_as(scores)
            # SCAN pools no vectors: what has no part in the scores gets zeros
            found = torch.autograd.grad(scores, [*inputs, *weights], own, materialize_grads=True)
            _add(sums, chunk, found[:5])
            for total, part in zip(weight_sums, found[5:], strict=True):
                total += part
        through: tuple[Tensor | None, ...] = ()
        if made:  # SCAN has no parameters
            through = torch.autograd.grad(made, parameters, weight_sums, allow_unused=True)
        regions_sum = sums[0].baddbmm_(sums[1] + sums[1].transpose(1, 2), regions)
        return None, None, None, regions_sum, *sums[2:], *through
