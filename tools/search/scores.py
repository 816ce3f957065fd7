"""Keys of a split with several networks, and real scores of a list of pairs.

Of several networks the keys stand side by side, so that their products are the mean's. For a list of pairs captions are
encoded once each, in blocks of similar length; of images those that a block is paired with are asked for.
Legend: P pairs, K dimensions of a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.ensemble import Split, encoded_captions, encoded_images, image_blocks
from models.keys import Keys, fit_keys
from models.matcher import Matcher, evaluating
from models.similarity import EncodedImages

PAIRS_AT_ONCE = 4096
CAPTIONS_AT_ONCE = 256
"""A block ends after so many pairs, or captions."""

ImagesOf = Callable[[np.ndarray], EncodedImages]
"""Image numbers (n,) -> those images, encoded."""


class Captions(Protocol):
    """Captions by number."""

    @property
    def lengths(self) -> np.ndarray:
        """(C,) token ids of each."""

    def tokens(self, captions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return token ids (n, W) and lengths (n,) of caption numbers (n,)."""


class SplitSubset:
    """Some images and some captions of a split, numbered anew."""

    def __init__(self, split: Split, images: np.ndarray, captions: np.ndarray) -> None:
        self._split, self._images, self._captions = split, images, captions
        self.num_images, self.lengths = len(images), split.lengths[captions]

    def read_images(self, images: np.ndarray) -> Tensor:
        """Return the features of image numbers (n,)."""
        return self._split.read_images(self._images[images])

    def tokens(self, captions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return token ids and lengths of caption numbers (n,)."""
        return self._split.tokens(self._captions[captions])


@dataclass(frozen=True)
class KeyedMatcher:
    """A network and its keys."""

    matcher: Matcher
    keys: Keys


def fit_networks(matchers: Sequence[Matcher], split: Split, device: torch.device) -> list[KeyedMatcher]:
    """Return networks with their keys; raises what `fit_keys` raises."""
    return [KeyedMatcher(matcher, fit_keys(matcher, split, device)) for matcher in matchers]


def _side_by_side(parts: Sequence[Tensor]) -> np.ndarray:
    return torch.cat([part.float() for part in parts], dim=1).cpu().numpy()


def image_keys(
    networks: Sequence[KeyedMatcher], split: Split, device: torch.device, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield image numbers (n,) from `start` on, in order, and their keys (n, K) float32; products are the mean's."""
    for rows in image_blocks(split.num_images, start):
        regions = split.read_images(rows).to(device)
        parts = []
        for network in networks:
            with evaluating(network.matcher):
                parts.append(network.keys.of_images(network.matcher.encode_images(regions)) / len(networks))
        yield rows, _side_by_side(parts)


def caption_keys(
    networks: Sequence[KeyedMatcher], split: Split, device: torch.device, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield caption numbers (n,), by length without the first `start`, and their keys (n, K) float32."""
    encoded = [encoded_captions(network.matcher, split, device, start) for network in networks]
    while True:
        parts, numbers = [], None
        for network, blocks in zip(networks, encoded, strict=True):
            with evaluating(network.matcher):
                found = next(blocks, None)
                if found is None:
                    return
                numbers = found[0]
                parts.append(network.keys.of_captions(found[1]))
        assert numbers is not None
        yield numbers, _side_by_side(parts)


def images_from(matcher: Matcher, split: Split, device: torch.device) -> ImagesOf:
    """Encode images when they are asked for: for few pairs."""
    return partial(encoded_images, matcher, split, device)


class EncodedFile:
    """All images of a split, encoded once and kept in files that may be larger than memory: for many pairs.

    Args:
        folder: where the files go; the caller removes it.
        name: what they are called.
    """

    def __init__(self, folder: Path, name: str, matcher: Matcher, split: Split, device: torch.device) -> None:
        self._device = device
        self._files: list[np.memmap] = []
        with evaluating(matcher):
            for rows in image_blocks(split.num_images):
                side = matcher.encode_images(split.read_images(rows).to(device))
                parts = [part.cpu().numpy() for part in (side.regions, side.pooled)]
                if not self._files:
                    self._files = [
                        np.lib.format.open_memmap(
                            folder / f"{name}_{kind}.npy", "w+", part.dtype, (split.num_images, *part.shape[1:])
                        )
                        for kind, part in zip(("regions", "pooled"), parts, strict=True)
                    ]
                for file, part in zip(self._files, parts, strict=True):
                    file[rows[0] : rows[-1] + 1] = part

    def __call__(self, numbers: np.ndarray) -> EncodedImages:
        """Return images (n,), encoded."""
        regions, pooled = (torch.from_numpy(file[numbers]).to(self._device) for file in self._files)
        return EncodedImages(regions, pooled)


def score_listed(
    matchers: Sequence[Matcher],
    images: Sequence[ImagesOf],
    captions: Captions,
    device: torch.device,
    pairs: tuple[np.ndarray, np.ndarray],
    advance: Callable[[int], None] = lambda pairs: None,
) -> np.ndarray:
    """Score image number (P,) against caption number (P,): (P,) float32, the mean of several networks.

    Args:
        matchers: the networks.
        images: each network's images.
        captions: the captions.
        device: where the networks are.
        pairs: image numbers and caption numbers.
        advance: told how many pairs more are scored.
    """
    image, caption = pairs
    scores = np.zeros(len(image), dtype=np.float32)
    for chosen in _blocks(caption, captions.lengths):
        numbers, column = np.unique(caption[chosen], return_inverse=True)
        wanted, row = np.unique(image[chosen], return_inverse=True)
        tokens, lengths = captions.tokens(numbers)
        for matcher, images_of in zip(matchers, images, strict=True):
            with evaluating(matcher):
                own = matcher.encode_captions(tokens.to(device), lengths)
                where = (torch.from_numpy(row).to(device), torch.from_numpy(column).to(device))
                found = matcher.similarity.score_pairs(images_of(wanted), own, *where)
            scores[chosen] += found.float().cpu().numpy() / len(matchers)
        advance(len(chosen))
    return scores


def _blocks(caption: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield places in the list (n,): captions of similar length together, no caption in two blocks unless it must."""
    order = np.lexsort((caption, lengths[caption]))
    starts = np.flatnonzero(np.diff(caption[order], prepend=-1))  # each caption's first pair
    begin = 0
    while begin < len(order):
        first = np.searchsorted(starts, begin, side="right") - 1
        limit = starts[first + CAPTIONS_AT_ONCE] if first + CAPTIONS_AT_ONCE < len(starts) else len(order)
        end = min(int(limit), begin + PAIRS_AT_ONCE)
        yield order[begin:end]
        begin = end
