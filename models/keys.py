"""Keys: one vector an image and one a caption, whose products are a network's scores, or estimate them.

Of VSE and GPO the product of the pooled vectors is the score. Of the others the keys carry the estimate of
models/shortlist.py: with x of an image, y of a caption and squared differences weighted by a,

    b + sum_d a_d (x_d - y_d)^2 = <[-2 a x, <a, x^2> + b, 1], [y, 1, <a, y^2>]>,

so that the best candidates of a query are those of the largest products, which indices of vectors can find. Of several
networks the keys stand side by side, and their products are the mean's.
Legend: I images, C captions, D embed size, K dimensions of a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.encoded_split import (
    Split,
    caption_vectors,
    encode_split,
    encoded_captions,
    evaluating,
    image_blocks,
    image_vectors,
)
from models.matcher import Matcher
from models.sgraf import SAF, SGR
from models.shortlist import fit_estimate
from models.similarity import VSE, EncodedCaptions, EncodedImages
from runtime.seed import generator

SAMPLED = 1024
"""The estimate is fitted on so many images and captions, drawn at random."""


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
class Keys:
    """How one network's images and captions become keys.

    Attributes:
        slope: (2 D,) a, None where the pooled vectors are the keys.
        offset: () b.
    """

    slope: Tensor | None = None
    offset: Tensor | None = None

    @property
    def are_exact(self) -> bool:
        """The products are the scores."""
        return self.slope is None

    def of_images(self, images: EncodedImages) -> Tensor:
        """Return (I, K)."""
        if self.slope is None or self.offset is None:
            return images.pooled
        x = image_vectors(images)
        constant = x.square() @ self.slope + self.offset
        return torch.cat([-2 * x * self.slope, constant[:, None], torch.ones_like(constant)[:, None]], dim=1)

    def of_captions(self, captions: EncodedCaptions) -> Tensor:
        """Return (C, K)."""
        if self.slope is None:
            return captions.pooled
        y = caption_vectors(captions)
        constant = y.square() @ self.slope
        return torch.cat([y, torch.ones_like(constant)[:, None], constant[:, None]], dim=1)


def fit_keys(matcher: Matcher, split: Split, device: torch.device, *, seed: int = 0) -> Keys:
    """Return a network's keys; where they only estimate, the estimate is fitted to pairs drawn from the split.

    Raises:
        InputError: a score is not finite.
    """
    similarity = matcher.similarity
    if isinstance(similarity, VSE):
        return Keys()
    random = generator(seed, "keys")
    chosen = [
        torch.randperm(count, generator=random)[:SAMPLED].sort().values.numpy()
        for count in (split.num_images, len(split.lengths))
    ]
    gallery = encode_split(matcher, SplitSubset(split, *chosen), device)
    with evaluating(matcher):
        is_chance = isinstance(similarity, (SGR, SAF))
        return Keys(*fit_estimate(similarity, gallery, gallery.vectors(), random, is_chance=is_chance))


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
