"""How each pair's own partner ranks, which other caption or image fits better, and where the scores come from.

Pair k is caption k and the image it is trained with. Rivals of its image are all images but it and its near-duplicates;
rivals of its caption are the captions of those images, less those with the same words. A rank is 1 plus the rivals that
score at least as high: equal scores count against a pair. The better partner is the best rival, if it scores higher.
Scores are products of vectors, those of every pair by the similarity, or those of a shortlist of pairs. They come a
tile at a time, so that 29,000 images x 145,000 captions need no score matrix.
Legend: I images, C captions, N pairs, K dimensions of a vector, P pairs of a list, of a tile: a images, b captions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.ensemble import Split, encoded_captions
from models.matcher import Matcher, evaluating
from tools.filter.filtering import Rows
from tools.search.scores import ImagesOf

Tile = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Image numbers (a,), caption numbers (b,), scores (a, b)."""

NOBODY = -1


@dataclass(frozen=True)
class Standing:
    """In one direction, for each of N pairs.

    Attributes:
        rank: of the own partner, from 1.
        better: number of the best rival that scores higher, NOBODY if none does.
        better_score: its score, NaN if there is none.
    """

    rank: np.ndarray
    better: np.ndarray
    better_score: np.ndarray


@dataclass(frozen=True)
class Partners:
    """Both directions; `i2t` ranks captions for the pair's image, `t2i` images for its caption."""

    i2t: Standing
    t2i: Standing


@dataclass(frozen=True)
class Rivalry:
    """Who competes with whom.

    Attributes:
        image_of_pair: (N,) the image each caption is trained with.
        own: (N,) score of each pair.
        text_group: (N,) captions of equal words have equal numbers.
        image_group: (I,) near-duplicate images have equal numbers.
    """

    image_of_pair: np.ndarray
    own: np.ndarray
    text_group: np.ndarray
    image_group: np.ndarray

    def captions(self, pairs: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Tell which captions compete with those of pairs; the two broadcast."""
        groups = self.image_group[self.image_of_pair]
        return (groups[captions] != groups[pairs]) & (self.text_group[captions] != self.text_group[pairs])

    def images(self, pairs: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Tell which images compete with those of pairs; the two broadcast."""
        return self.image_group[images] != self.image_group[self.image_of_pair[pairs]]


class _Direction:
    """Counts and bests of one direction, as they grow."""

    def __init__(self, own: np.ndarray) -> None:
        self._own = own
        self._rank = np.ones(len(own), dtype=np.int64)
        self._best = np.full(len(own), NOBODY, dtype=np.int64)
        self._best_score = np.full(len(own), -np.inf)

    def look(self, pairs: np.ndarray, others: np.ndarray, scores: np.ndarray, is_rival: np.ndarray) -> None:
        """Take in scores (n, m) of pairs (n,) with others (m,)."""
        self._rank[pairs] += ((scores >= self._own[pairs, None]) & is_rival).sum(axis=1)
        among = np.where(is_rival, scores, -np.inf)
        place = among.argmax(axis=1)
        self._raise(pairs, others[place], among[np.arange(len(pairs)), place])

    def _raise(self, pairs: np.ndarray, others: np.ndarray, scores: np.ndarray) -> None:
        """Keep what is better than what was known; of equal scores the lower number stays."""
        before = self._best_score[pairs]
        is_better = (scores > before) | ((scores == before) & (others < self._best[pairs]))
        is_better &= np.isfinite(scores)
        pairs = pairs[is_better]
        self._best[pairs], self._best_score[pairs] = others[is_better], scores[is_better]

    def standing(self) -> Standing:
        is_better = self._best_score > self._own
        return Standing(
            self._rank, np.where(is_better, self._best, NOBODY), np.where(is_better, self._best_score, np.nan)
        )


class _PairsOfImages:
    """Which pairs each image has: `pairs[starts[i]:starts[i + 1]]` are those of image i."""

    def __init__(self, image_of_pair: np.ndarray, num_images: int) -> None:
        self.pairs = np.argsort(image_of_pair, kind="stable")
        self.counts = np.bincount(image_of_pair, minlength=num_images)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])

    def of(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs of images (n,), and for each the place of its image among them."""
        counts = self.counts[images]
        place = np.repeat(np.arange(len(images)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.pairs[self.starts[images][place] + within], place


def _in_order(tile: Tile) -> Tile:
    """Sort a tile by number, so that of equal rivals the first is the lowest."""
    images, captions, scores = tile
    if (np.diff(images) < 0).any():
        order = np.argsort(images)
        images, scores = images[order], scores[order]
    if (np.diff(captions) < 0).any():
        order = np.argsort(captions)
        captions, scores = captions[order], scores[:, order]
    return images, captions, scores


def find_partners(tiles: Iterable[Tile], rivalry: Rivalry) -> Partners:
    """Rank every pair among all images and captions, a tile of scores at a time; together they hold each score once."""
    i2t, t2i = _Direction(rivalry.own), _Direction(rivalry.own)
    owners = _PairsOfImages(rivalry.image_of_pair, len(rivalry.image_group))
    for tile in tiles:
        images, captions, scores = _in_order(tile)
        t2i.look(captions, images, scores.T, rivalry.images(captions[:, None], images[None]))
        pairs, place = owners.of(images)
        if len(pairs):
            i2t.look(pairs, captions, scores[place], rivalry.captions(pairs[:, None], captions[None]))
    return Partners(i2t.standing(), t2i.standing())


IMAGES_AT_ONCE, CAPTIONS_AT_ONCE = 1024, 2048
"""The sides of a tile."""

Advance = Callable[[int], None]


def _blocks(rows: Rows, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, rows.shape[0], size):
        block = rows[start : start + size]
        yield np.arange(start, start + len(block)), np.asarray(block, dtype=np.float32)


def product_tiles(images: Rows, captions: Rows, advance: Advance = lambda images: None) -> Iterator[Tile]:
    """Yield the products of all images (I, K) and captions (C, K), which may lie in files; `advance` counts images."""
    for rows, image_block in _blocks(images, IMAGES_AT_ONCE):
        for columns, caption_block in _blocks(captions, CAPTIONS_AT_ONCE):
            yield rows, columns, image_block @ caption_block.T
        advance(len(rows))


def similarity_tiles(
    matchers: Sequence[Matcher],
    images: Sequence[ImagesOf],
    split: Split,
    device: torch.device,
    advance: Advance = lambda captions: None,
) -> Iterator[Tile]:
    """Yield all scores of a split, the mean of several networks; captions are encoded once, `advance` counts them."""
    encoded = [encoded_captions(matcher, split, device) for matcher in matchers]
    while True:
        captions = []
        for matcher, blocks in zip(matchers, encoded, strict=True):
            with evaluating(matcher):
                captions.append(next(blocks, None))
        if captions[0] is None:
            return
        for start in range(0, split.num_images, IMAGES_AT_ONCE):
            rows = np.arange(start, min(start + IMAGES_AT_ONCE, split.num_images))
            total = 0.0
            for matcher, images_of, found in zip(matchers, images, captions, strict=True):
                assert found is not None
                with evaluating(matcher):
                    total = total + matcher.similarity(images_of(rows), found[1]).float() / len(matchers)
            assert isinstance(total, torch.Tensor)
            yield rows, captions[0][0], total.cpu().numpy()
        advance(len(captions[0][0]))


def listed_tiles(image: np.ndarray, caption: np.ndarray, score: np.ndarray, shape: tuple[int, int]) -> Iterator[Tile]:
    """Yield the tiles in which pairs of a list are; a pair that is not in it scores -inf.

    Args:
        image: (P,) image numbers.
        caption: (P,) caption numbers; no pair stands in the list twice.
        score: (P,).
        shape: (I, C).
    """
    tile = image // IMAGES_AT_ONCE * shape[1] + caption // CAPTIONS_AT_ONCE
    order = np.argsort(tile, kind="stable")
    for entries in np.split(order, np.flatnonzero(np.diff(tile[order])) + 1):
        sides = ((image, IMAGES_AT_ONCE, shape[0]), (caption, CAPTIONS_AT_ONCE, shape[1]))
        starts = [int(numbers[entries[0]]) // size * size for numbers, size, _ in sides]
        rows, columns = (
            np.arange(start, min(start + size, count)) for start, (_, size, count) in zip(starts, sides, strict=True)
        )
        scores = np.full((len(rows), len(columns)), -np.inf, dtype=score.dtype)
        scores[image[entries] - starts[0], caption[entries] - starts[1]] = score[entries]
        yield rows, columns, scores


def shortlist(tiles: Iterable[Tile], shape: tuple[int, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return image and caption numbers (P,): the `size` best captions of every image, and images of every caption.

    Args:
        tiles: estimates, each once.
        shape: (I, C).
        size: candidates; of fewer all are taken.
    """
    by_image, by_caption = _Best(shape[0], min(size, shape[1])), _Best(shape[1], min(size, shape[0]))
    for images, captions, estimates in tiles:
        by_image.look(images, captions, estimates)
        by_caption.look(captions, images, estimates.T)
    pairs = [by_image.listed(), by_caption.listed()[::-1]]
    image, caption = (np.concatenate(sides) for sides in zip(*pairs, strict=True))
    key = np.unique(image * shape[1] + caption)
    return key // shape[1], key % shape[1]


class _Best:
    """The `size` best others of each of n things, as scores come."""

    def __init__(self, count: int, size: int) -> None:
        self._number = torch.full((count, size), -1, dtype=torch.long)
        self._score = torch.full((count, size), -torch.inf)

    def look(self, things: np.ndarray, others: np.ndarray, scores: np.ndarray) -> None:
        """Take in scores (n, m)."""
        where, size = torch.from_numpy(things), self._number.shape[1]
        best = torch.from_numpy(np.ascontiguousarray(scores)).topk(min(size, len(others)), dim=1, sorted=False)
        number = torch.cat([self._number[where], torch.from_numpy(others)[best.indices]], dim=1)
        score = torch.cat([self._score[where], best.values], dim=1)
        kept = score.topk(size, dim=1, sorted=False)
        self._number[where], self._score[where] = number.gather(1, kept.indices), kept.values

    def listed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return things and others, one entry a candidate."""
        size = self._number.shape[1]
        return np.repeat(np.arange(len(self._number)), size), self._number.flatten().numpy()
