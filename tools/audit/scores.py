"""Where the scores of an audit come from: products of vectors, every pair by the similarity, or a shortlist of pairs.

Everything comes a tile at a time, so that 29,000 images x 145,000 captions need no score matrix.
Legend: I images, C captions, K dimensions of a vector, P pairs of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from models.encoded_split import Split, encoded_captions, evaluating
from models.listed import ImagesOf
from models.matcher import Matcher
from tools.audit.partners import Tile
from tools.filter.filtering import Rows

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
