"""Keys: one vector an image and one a caption, whose products are a network's scores, or estimate them.

Of VSE and GPO the product of the pooled vectors is the score. SGR and SAF start from the squares (v - t)^2 of pooled
vectors and end in a sigmoid; the estimate is what is left when all between them is linear, a weighted squared distance:

    s ~ sigmoid(b + sum_d a_d (x_d - y_d)^2),

x of an image: its self-attention pooled vector and the plain mean of its regions; y of a caption: the same of its
words. a and b come from a ridge regression on the similarity's own scores of pairs drawn at random; no label is used.
(SCAN's scores are estimated without the sigmoid.) Cosines are no substitute, since they are not what SGR is trained on.
As a product of keys,

    b + sum_d a_d (x_d - y_d)^2 = <[-2 a x, <a, x^2> + b, 1], [y, 1, <a, y^2>]>,

so that the best candidates of a query are those of the largest products, which indices of vectors can find. Of several
networks the keys stand side by side, and their products are the mean's.
Legend: I images, C captions, P pairs, D embed size, K dimensions of a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.encoded_split import (
    EncodedSplit,
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
from models.similarity import VSE, EncodedCaptions, EncodedImages, Similarity
from runtime.errors import InputError
from runtime.seed import generator

SAMPLED = 1024
"""The estimate is fitted on so many images and captions, drawn at random."""


SAMPLED_SHARE, FEWEST_SAMPLED, MOST_SAMPLED = 1 / 50, 1024, 8192
"""The regression sees this share of all pairs, within these limits."""

RIDGE = 0.3
"""Penalty, as a share of a feature's variance."""

SURE = 1e-6
"""Scores are kept so far from 0 and 1, where the logit ends."""


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


def score_chosen(similarity: Similarity, gallery: EncodedSplit, image: Tensor, caption: Tensor) -> Tensor:
    """Score image number (P,) against caption number (P,), both on the CPU, as (P,)."""
    device = gallery.images.pooled.device
    block_of, place = torch.empty(2, gallery.shape[1], dtype=torch.long)
    for number, columns in enumerate(gallery.columns):
        block_of[columns], place[columns] = number, torch.arange(len(columns))
    scores = torch.empty(len(image), dtype=gallery.images.pooled.dtype)
    pair_block, pair_place = block_of[caption], place[caption]
    for number, block in enumerate(gallery.blocks):
        pairs = torch.nonzero(pair_block == number).flatten()
        pairs = pairs[torch.argsort(pair_place[pairs], stable=True)]  # one caption's pairs together
        if len(pairs):
            chosen = (image[pairs].to(device), pair_place[pairs].to(device))
            scores[pairs] = similarity.score_pairs(gallery.images, block, *chosen).cpu()
    return scores


def fit_estimate(
    similarity: Similarity,
    gallery: EncodedSplit,
    vectors: tuple[Tensor, Tensor],
    random: torch.Generator,
    *,
    is_chance: bool = True,
) -> tuple[Tensor, Tensor]:
    """Fit the estimate to the scores of pairs drawn at random: its slope (2 D,) and offset ().

    Args:
        similarity: what is estimated.
        gallery: what pairs are drawn from.
        vectors: the gallery's own.
        random: draws them.
        is_chance: the scores end in a sigmoid, whose logits are estimated; else they are estimated themselves.

    Raises:
        InputError: a score is not finite.
    """
    num_images, num_captions = gallery.shape
    count = min(MOST_SAMPLED, max(FEWEST_SAMPLED, round(SAMPLED_SHARE * num_images * num_captions)))
    image = torch.randint(num_images, (count,), generator=random)
    caption = torch.randint(num_captions, (count,), generator=random)
    scores = score_chosen(similarity, gallery, image, caption)
    if not torch.isfinite(scores).all():
        raise InputError("similarities hold NaN or infinity and cannot be ranked: the network has diverged")
    x, y = vectors
    squares = (x[image.to(x.device)] - y[caption.to(x.device)]).square_()
    return _ridge(squares, (torch.logit(scores, eps=SURE) if is_chance else scores).to(x.device))


def _ridge(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Regress target (P,) on features (P, F), each scaled to variance 1 for the penalty: slope (F,) and offset ()."""
    mean, centre = features.mean(dim=0), target.mean()
    deviation = features.std(dim=0, correction=0).clamp(min=1e-12)
    scaled = (features - mean) / deviation
    covariance = scaled.t() @ scaled / len(scaled)
    covariance.diagonal().add_(RIDGE)
    slope = torch.linalg.solve(covariance, scaled.t() @ (target - centre) / len(scaled)) / deviation
    return slope, centre - mean @ slope


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
