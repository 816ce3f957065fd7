"""Keys: one vector an image and one a caption, whose products are a network's scores, or estimate them.

Of VSE and GPO the product of the pooled vectors is the score. SGR and SAF start from the squares (v - t)^2 of pooled
vectors and end in a sigmoid; the estimate is what is left when all between them is linear, a weighted squared distance:

    s ~ sigmoid(b + sum_d a_d (x_d - y_d)^2),

x of an image: its self-attention pooled vector and the plain mean of its regions; y of a caption: the same of its
words. a and b come from a ridge regression on the similarity's own scores of pairs drawn at random; no label is used.
(SCAN's scores are estimated without the sigmoid.) Cosines are no substitute, since they are not what SGR is trained on.
As a product of keys,

    b + sum_d a_d (x_d - y_d)^2 = <[-2 a x, <a, x^2> + b, 1], [y, 1, <a, y^2>]>,

so that the best candidates of a query are those of the largest products, which indices of vectors can find.
Legend: I images, C captions, P pairs, D embed size, K dimensions of a key.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.ensemble import Split, caption_vectors, encoded_images, image_vectors
from models.matcher import Matcher, evaluating
from models.sgraf import SAF, SGR
from models.similarity import EncodedCaptions, EncodedImages, Similarity
from models.vse import VSE
from runtime.errors import InputError
from runtime.seed import generator

SAMPLED = 1024
"""The estimate is fitted on so many images and captions, drawn at random."""

SAMPLED_SHARE, FEWEST_SAMPLED, MOST_SAMPLED = 1 / 50, 1024, 8192
"""The regression sees this share of all their pairs, within these limits."""

RIDGE = 0.3
"""Penalty, as a share of a feature's variance."""

SURE = 1e-6
"""Scores are kept so far from 0 and 1, where the logit ends."""


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
    if isinstance(matcher.similarity, VSE):
        return Keys()
    random = generator(seed, "keys")
    shown, read = (
        torch.randperm(count, generator=random)[:SAMPLED].sort().values.numpy()
        for count in (split.num_images, len(split.lengths))
    )
    with evaluating(matcher):
        images = encoded_images(matcher, split, device, shown)
        tokens, lengths = split.tokens(read)
        return fit_estimate(matcher.similarity, images, matcher.encode_captions(tokens.to(device), lengths), random)


def fit_estimate(
    similarity: Similarity, images: EncodedImages, captions: EncodedCaptions, random: torch.Generator
) -> Keys:
    """Fit the estimate to the scores of pairs drawn at random; those of SGR and SAF are sigmoids.

    Raises:
        InputError: a score is not finite.
    """
    sizes = len(images.regions), len(captions.lengths)
    count = min(MOST_SAMPLED, max(FEWEST_SAMPLED, round(SAMPLED_SHARE * sizes[0] * sizes[1])))
    image, caption = (torch.randint(size, (count,), generator=random).to(images.pooled.device) for size in sizes)
    scores = similarity.score_pairs(images, captions, image, caption)
    if not torch.isfinite(scores).all():
        raise InputError("similarities hold NaN or infinity and cannot be ranked: the network has diverged")
    squares = (image_vectors(images)[image] - caption_vectors(captions)[caption]).square_()
    return Keys(*_ridge(squares, torch.logit(scores, eps=SURE) if isinstance(similarity, (SGR, SAF)) else scores))


def _ridge(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Regress target (P,) on features (P, F), each scaled to variance 1 for the penalty: slope (F,) and offset ()."""
    mean, centre = features.mean(dim=0), target.mean()
    deviation = features.std(dim=0, correction=0).clamp(min=1e-12)
    scaled = (features - mean) / deviation
    covariance = scaled.t() @ scaled / len(scaled)
    covariance.diagonal().add_(RIDGE)
    slope = torch.linalg.solve(covariance, scaled.t() @ (target - centre) / len(scaled)) / deviation
    return slope, centre - mean @ slope
