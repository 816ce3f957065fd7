"""Real scores of a list of pairs, without a whole split being encoded at a time.

Captions are encoded once each, in blocks of similar length; of images those that a block is paired with are asked for.
Legend: P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.encoded_split import Split, evaluating, image_blocks
from models.matcher import Matcher
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


def images_from(matcher: Matcher, split: Split, device: torch.device) -> ImagesOf:
    """Encode images when they are asked for: for few pairs."""

    def encode(numbers: np.ndarray) -> EncodedImages:
        parts = [
            matcher.encode_images(split.read_images(numbers[rows]).to(device)) for rows in image_blocks(len(numbers))
        ]
        return EncodedImages(torch.cat([part.regions for part in parts]), torch.cat([part.pooled for part in parts]))

    return encode


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
