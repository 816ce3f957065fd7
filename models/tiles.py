"""Score many pairs a tile at a time, and differentiate a tile at a time: never more than one tile is in memory.

A tile is a group of captions of equal length against a block of images. Small groups of neighbouring lengths are put
together, their padding kept out of every norm and softmax.
The derivative scores a tile again, with gradient this time, and leaves it at once. Pairs that the loss gives no
gradient are not scored again: with hardest negatives at most 3 B of B^2 pairs carry any. Randomness (dropout) happens
before scoring, so that both passes see the same.
Legend: I images, C captions, R regions, W words, D embed size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.attention import word_mask
from models.word_similarity import gram

TILE_NUMBERS = {"cpu": 2**22, "cuda": 2**26}
"""The largest temporary of a tile, images x words x D, has about so many numbers, by kind of device. 16 MiB on a
processor keep its products large and its buffers warm (benchmarks/RESULTS.md has the figures from 2^21 to 2^23)."""

COUPLED_NUMBERS = 2**29
"""Where pairs are coupled and all have gradient, a batch of up to so many images x words x D is kept in one graph: for
SAF at published sizes and batch 128 (2^28) about 1.3 GiB. Larger ones are scored again tile by tile."""

LOW_PRECISION_MULTIPLE = 32
"""Tiles of chosen images have a multiple of so many in lower precision, so that few shapes occur."""

TILE_WORDS = 64
TILE_IMAGES = 16
"""A tile has at least so many words and images, if there are so many."""

TILE_COST = 2**18
"""What a tile costs beyond its arithmetic, in pairs x words x D (about a millisecond)."""

NO_PADDING = 2 * TILE_COST
"""A size at which lengths are never put together."""

FEW_IMAGES, SMALL_TILES = 8, 2
"""Captions wanted with fewer images, and tiles of one caption and less work than so many times `TILE_COST`, are scored
pair by pair."""


@dataclass(frozen=True)
class Tile:
    """Captions against images, both by their numbers (on the CPU).

    Attributes:
        length: words of the longest caption.
        is_paired: the k-th caption is scored against the k-th image alone.
        lengths: words of each caption, where they are not all equal.
    """

    length: int
    captions: Tensor
    images: slice | Tensor
    is_paired: bool = False
    lengths: Tensor | None = None

    def node_mask(self, device: torch.device) -> Tensor | None:
        """Return which nodes are there, (C, W + 1) bool or, of pairs, (P, 1, W + 1); None: all. Node 0 always is."""
        if self.lengths is None:
            return None
        mask = word_mask(self.lengths + 1, self.length + 1, device)
        return mask[:, None] if self.is_paired else mask

    def index(self, device: torch.device) -> tuple[slice | Tensor, Tensor]:
        """Return what picks the tile's entries out of a matrix (I, C) in the shape of its scores."""
        captions = self.captions.to(device)
        if isinstance(self.images, slice):
            return self.images, captions
        return self.images.to(device)[:, None], captions[:, None] if self.is_paired else captions


class TileScorer(Protocol):
    """What scores tiles, a similarity."""

    def tile_weights(self, dtype: torch.dtype) -> list[Tensor]:
        """Return everything that tiles need of the parameters, large maps in `dtype`."""

    def score_tile(self, weights: list[Tensor], share: list[Tensor], mask: Tensor | None = None) -> Tensor:
        """Return the scores of a tile, (I, C) or, of single pairs, (I, 1).

        Args:
            weights: `tile_weights`.
            share: regions (I, R, D), their Gram products (I, R, R), image vectors (I, D), words (C, W, D) and caption
                vectors (C, D); of single pairs words (I, 1, W, D) and caption vectors (I, 1, D).
            mask: (C, W + 1) or (I, 1, W + 1), the nodes that are there; other words are zero. None: all are.
        """

    @property
    def couples_pairs(self) -> bool:
        """Whether a tile must hold all images, since the scores of a caption depend on each other."""


@dataclass(frozen=True)
class TileInputs:
    """What is scored: regions (I, R, D), image vectors (I, D), words (C, W, D), caption vectors (C, D)."""

    regions: Tensor
    image_pooled: Tensor
    words: Tensor
    caption_pooled: Tensor

    def of(self, tile: Tile, products: Tensor) -> list[Tensor]:
        """Return a tile's share, as `TileScorer.score_tile` takes it."""
        captions = tile.captions.to(self.words.device)
        images = tile.images if isinstance(tile.images, slice) else tile.images.to(self.regions.device)
        words, caption_pooled = self.words[captions, : tile.length], self.caption_pooled[captions]
        if tile.lengths is not None:
            words = words.masked_fill(~word_mask(tile.lengths, tile.length, words.device)[:, :, None], 0.0)
        if tile.is_paired:
            words, caption_pooled = words[:, None], caption_pooled[:, None]
        return [self.regions[images], products[images], self.image_pooled[images], words, caption_pooled]

    def add(
        self, tile: Tile, products: Tensor, regions: Tensor, own: Tensor, image: Tensor, words: Tensor, caption: Tensor
    ) -> None:
        """Add a tile's share of gradients, as `of` gives them, to these and to those of the products."""
        totals, parts = (self.regions, products, self.image_pooled), (regions, own, image)
        for total, part in zip(totals, parts, strict=True):
            if isinstance(tile.images, slice):
                total[tile.images] += part
            else:
                total.index_add_(0, tile.images.to(total.device), part)
        captions = tile.captions.to(self.words.device)
        if tile.is_paired:
            words, caption = words.squeeze(1), caption.squeeze(1)
        self.words[:, : tile.length].index_add_(0, captions, words)
        self.caption_pooled.index_add_(0, captions, caption)


def tile_shape(num_images: int, size: int, device: torch.device) -> tuple[int, int]:
    """Return images and words of a tile, for vectors of `size` numbers."""
    numbers = TILE_NUMBERS.get(device.type, TILE_NUMBERS["cpu"]) // size
    images = min(num_images, max(TILE_IMAGES, numbers // TILE_WORDS))
    return images, max(TILE_WORDS, numbers // images)


def _shares(captions: Tensor, length: int, words: int) -> tuple[Tensor, ...]:
    """Split captions of one length evenly into groups of about so many words, at most half as many more."""
    return captions.tensor_split(min(len(captions), max(1, round(len(captions) * length / words))))


def _tile(captions: Tensor, images: slice | Tensor, lengths: Tensor, *, is_paired: bool = False) -> Tile:
    own = lengths[captions]
    length = int(own.max())
    return Tile(length, captions, images, is_paired, None if bool((own == length).all()) else own)


def _joined(lengths: Tensor, amounts: Tensor, size: int) -> Iterator[Tensor]:
    """Group captions (numbers, by length) of lengths (C,): equal lengths, and neighbouring ones if that is cheaper.

    Lengths are put together while the padding costs less than another tile: `amounts` (C,) images of each caption times
    the missing words times `size` stay below `TILE_COST`. Captions of amount 0 are left out.
    """
    group: list[Tensor] = []
    for length in lengths[amounts > 0].unique().tolist():
        members = torch.nonzero((lengths == length) & (amounts > 0)).flatten()
        if group:
            before = torch.cat(group)
            if int(((length - lengths[before]) * amounts[before]).sum()) * size > TILE_COST:
                yield before
                group = []
        group.append(members)
    if group:
        yield torch.cat(group)


def all_tiles(
    lengths: Tensor, num_images: int, shape: tuple[int, int], size: int, chosen: Tensor | None = None
) -> Iterator[Tile]:
    """Cut all pairs into tiles of at most `shape[0]` images and about `shape[1]` words.

    Args:
        lengths: (C,).
        num_images: I.
        shape: images and words of a tile.
        size: numbers of a vector.
        chosen: (C,) bool, the captions wanted; None: all.
    """
    amounts = torch.full_like(lengths, num_images)
    for members in _joined(lengths, amounts if chosen is None else amounts * chosen, size):
        for captions in _shares(members, int(lengths[members].max()), shape[1]):
            for images in torch.arange(num_images).tensor_split(-(-num_images // shape[0])):
                yield _tile(captions, slice(int(images[0]), int(images[-1]) + 1), lengths)


def tiles_where(
    wanted: Tensor, lengths: Tensor, shape: tuple[int, int], size: int, multiple: int = 1
) -> Iterator[Tile]:
    """Cut the wanted pairs, (I, C) bool on the CPU, into tiles of vectors of `size` numbers.

    Tiles are filled up to a `multiple` of images with some that nobody wants: products in lower precision are prepared
    for each shape anew, which costs more than they do.

    Captions of one length share a tile with all the images that any of them wants, as long as scoring the pairs that
    nobody wants costs less than another tile. What would be a small tile of one caption goes pair by pair, with others.
    """
    counts = wanted.sum(dim=0)
    is_single = (counts > 0) & (counts < FEW_IMAGES)
    for length in lengths[counts >= FEW_IMAGES].unique().tolist():
        many = torch.nonzero((lengths == length) & (counts >= FEW_IMAGES)).flatten()
        for numbers, is_wanted in _alike(wanted[:, many].t().numpy(), TILE_COST // (length * size)):
            members = many[numbers]
            if len(members) == 1 and int(counts[members]) * length * size < SMALL_TILES * TILE_COST:
                is_single[members] = True
                continue
            spare = -int(is_wanted.sum()) % multiple
            is_wanted = is_wanted | (~is_wanted & (np.cumsum(~is_wanted) <= spare))
            images = torch.from_numpy(np.flatnonzero(is_wanted))
            for captions in _shares(members, length, shape[1]):
                for block in images.split(shape[0]):
                    first, last = int(block[0]), int(block[-1])
                    is_run = last - first + 1 == len(block)
                    yield Tile(length, captions, slice(first, last + 1) if is_run else block)
    words = max(1, shape[0] * shape[1] // 4)  # of a tile of pairs: their regions are gathered and weigh as well
    for singles in _joined(lengths, counts * is_single, size):
        place, image = torch.nonzero(wanted[:, singles].t(), as_tuple=True)
        pairs = max(1, words // int(lengths[singles].max()))
        for captions, images in zip(singles[place].split(pairs), image.split(pairs), strict=True):
            yield _tile(captions, images, lengths, is_paired=True)


def _alike(rows: np.ndarray, waste: int) -> Iterator[tuple[list[int], np.ndarray]]:
    """Group rows (n, I) bool, the fullest first: their numbers and what any of them holds.

    A row joins the group before it if no more than `waste` entries are added that no row holds.
    """
    counts = rows.sum(axis=1)
    group: list[int] = []
    union = np.zeros(rows.shape[1], dtype=bool)
    for number in np.argsort(-counts, kind="stable").tolist():
        wider = union | rows[number]
        before, after = int(union.sum()) * len(group), int(wider.sum()) * (len(group) + 1)
        if group and after - before - int(counts[number]) > waste:
            yield group, union
            group, wider = [], rows[number]
        group.append(number)
        union = wider
    if group:
        yield group, union


def _cut(
    scorer: TileScorer, sides: TileInputs, lengths: Tensor, wanted: Tensor | None, multiple: int = 1
) -> Iterator[Tile]:
    num_images, size = len(sides.regions), sides.regions.shape[2]
    shape = tile_shape(num_images, size, sides.regions.device)
    if scorer.couples_pairs:
        shape = (num_images, max(1, shape[0] * shape[1] // num_images))
        return all_tiles(lengths, num_images, shape, NO_PADDING, None if wanted is None else wanted.any(dim=0))
    if wanted is None or bool(wanted.all()):
        return all_tiles(lengths, num_images, shape, size)
    return tiles_where(wanted, lengths, shape, size, multiple)


@torch.no_grad()
def score_tiles(
    scorer: TileScorer,
    sides: TileInputs,
    lengths: Tensor,
    wanted: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Score without gradient.

    Args:
        scorer: the similarity.
        sides: images and captions.
        lengths: (C,) on the CPU.
        wanted: (I, C) bool on the CPU; None: every pair.
        dtype: what the large products are computed in; None: the dtype of the regions.

    Returns:
        (I, C), zero where nothing was wanted.
    """
    sims = sides.regions.new_zeros(len(sides.regions), len(lengths))
    weights, products = scorer.tile_weights(dtype or sides.regions.dtype), gram(sides.regions)
    if dtype is not None:
        sides = replace(sides, regions=sides.regions.to(dtype), words=sides.words.to(dtype))
    for tile in _cut(scorer, sides, lengths, wanted, 1 if dtype is None else LOW_PRECISION_MULTIPLE):
        sims[tile.index(sims.device)] = scorer.score_tile(
            weights, sides.of(tile, products), tile.node_mask(sims.device)
        ).to(sims.dtype)
    return sims


def score_tiles_with_gradient(
    scorer: TileScorer,
    parameters: list[Tensor],
    sides: TileInputs,
    lengths: Tensor,
    wanted: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Do what `score_tiles` does, differentiably.

    Args:
        parameters: what `tile_weights` is made from.
        known: (I, C) the scores, if they are known already; they are then not computed again, only differentiated.
    """
    tensors = (sides.regions, sides.image_pooled, sides.words, sides.caption_pooled)
    return _TiledScores.apply(scorer, lengths, wanted, known, *tensors, *parameters)


def score_in_one_graph(scorer: TileScorer, sides: TileInputs, lengths: Tensor) -> Tensor:
    """Score all pairs and leave the derivative to autograd; nothing is scored twice then."""
    weights, products = scorer.tile_weights(sides.regions.dtype), gram(sides.regions)
    size = NO_PADDING if scorer.couples_pairs else sides.regions.shape[2]
    found, order = [], []
    for tile in all_tiles(lengths, len(sides.regions), (len(sides.regions), int(lengths.sum())), size):
        mask = tile.node_mask(sides.regions.device)
        found.append(scorer.score_tile(weights, sides.of(tile, products), mask))
        order.append(tile.captions)
    back = torch.argsort(torch.cat(order)).to(sides.regions.device)
    return torch.cat(found, dim=1)[:, back]


def fits_one_graph(scorer: TileScorer, sides: TileInputs, lengths: Tensor, *, sparse: bool) -> bool:
    """Tell whether the derivative of all pairs is better left to autograd.

    So it is if they are no more than a tile and more than a few have gradient; and where pairs are coupled, so that all
    have, as long as memory allows.
    """
    limit = TILE_NUMBERS.get(sides.regions.device.type, TILE_NUMBERS["cpu"])
    if scorer.couples_pairs:
        limit = COUPLED_NUMBERS
    elif sparse:
        return False
    return len(sides.regions) * int(lengths.sum()) * sides.regions.shape[2] <= limit


class _TiledScores(torch.autograd.Function):
    """Scores whose derivative is taken a tile at a time."""

    @staticmethod
    def forward(
        ctx: Any, scorer: TileScorer, lengths: Tensor, wanted: Tensor | None, known: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        ctx.scorer, ctx.lengths = scorer, lengths
        ctx.save_for_backward(*tensors)
        return score_tiles(scorer, TileInputs(*tensors[:4]), lengths, wanted) if known is None else known.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sides = TileInputs(*(t.detach() for t in ctx.saved_tensors[:4]))
        parameters = ctx.saved_tensors[4:]
        with torch.enable_grad():
            made = ctx.scorer.tile_weights(sides.regions.dtype)
        weights = [w.detach().requires_grad_() for w in made]
        weight_sums = [torch.zeros_like(w) for w in weights]
        products = gram(sides.regions)
        sums, products_sum = (
            TileInputs(*(torch.zeros_like(t) for t in ctx.saved_tensors[:4])),
            torch.zeros_like(products),
        )
        for tile in _cut(ctx.scorer, sides, ctx.lengths, (gradient != 0).cpu()):
            share = [x.detach().requires_grad_() for x in sides.of(tile, products)]
            with torch.enable_grad():
                scores = ctx.scorer.score_tile(weights, share, tile.node_mask(gradient.device))
            wrt, own = [*share, *weights], gradient[tile.index(gradient.device)]
            found = torch.autograd.grad(scores, wrt, own, materialize_grads=True)  # SCAN pools no vectors
            sums.add(tile, products_sum, *found[:5])
            for total, part in zip(weight_sums, found[5:], strict=True):
                total += part
        sums.regions.baddbmm_(products_sum + products_sum.transpose(1, 2), sides.regions)
        through: tuple[Tensor | None, ...] = ()
        if parameters:  # SCAN has none
            through = torch.autograd.grad(made, parameters, weight_sums, allow_unused=True)
        return None, None, None, None, sums.regions, sums.image_pooled, sums.words, sums.caption_pooled, *through
