"""A shortlist of pairs by a cheap estimate of their scores, so that the similarity itself need see few pairs.

SGR and SAF start from the squares (v - t)^2 of pooled vectors and end in a sigmoid. The estimate is what is left when
all between them is linear, a weighted squared distance:

    s ~ sigmoid(b + sum_d a_d (x_d - y_d)^2),

x of an image: its self-attention pooled vector and the plain mean of its regions; y of a caption: the same of its
words. a and b come from a ridge regression on the similarity's own scores of pairs drawn at random. No label is used,
and all pairs cost one matrix product. Cosines are no substitute, since they are not what SGR is trained on: with 64
candidates on the embedded test set (1,000 x 5,000) that of the pooled vectors loses 114 and 127 points of rSum (two
networks of 246 and 242), the best region of every word 84 and 115, this estimate about one.
Legend: I images, C captions, P pairs, D embed size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.encoded_split import EncodedSplit, Split, encode_split, evaluating
from models.matcher import Matcher
from models.similarity import Similarity
from runtime.errors import InputError
from runtime.seed import generator

SAMPLED_SHARE, FEWEST_SAMPLED, MOST_SAMPLED = 1 / 50, 1024, 8192
"""The regression sees this share of all pairs, within these limits."""

RIDGE = 0.3
"""Penalty, as a share of a feature's variance."""

SURE = 1e-6
"""Scores are kept so far from 0 and 1, where the logit ends."""

TIE = 1e-4
"""Estimates that differ by a smaller share are equal; captions of the same words differ in their last bits."""

BLOCK = 512
"""So many rows or columns of a score matrix are handled at a time."""


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


def estimated_scores(similarity: Similarity, gallery: EncodedSplit, random: torch.Generator) -> Tensor:
    """Fit the estimate to the scores of a few pairs and return it for all, (I, C) on the CPU.

    Raises:
        InputError: a score is not finite.
    """
    x, y = gallery.vectors()
    slope, offset = fit_estimate(similarity, gallery, (x, y), random)
    num_images = len(x)
    image_part, caption_part = x.square() @ slope + offset, y.square() @ slope
    weighted = -2 * x * slope
    estimates = torch.empty(gallery.shape)
    for rows in torch.arange(num_images).split(BLOCK):
        own = slice(int(rows[0]), int(rows[-1]) + 1)
        logits = torch.addmm(caption_part, weighted[own], y.t()).add_(image_part[own, None])
        estimates[own] = torch.sigmoid(logits)
    return estimates


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


def best_pairs(scores: Tensor, size: int) -> Tensor:
    """Name the `size` best captions of every image and the `size` best images of every caption.

    Whatever ties with the last of them is in as well: ties count against a network, and a cut through captions of the
    same words would be in its favour.

    Args:
        scores: (I, C), positive.
        size: of fewer candidates all are taken.

    Returns:
        (I, C) bool.
    """
    is_best = torch.zeros(scores.shape, dtype=torch.bool)
    for matrix, marks in ((scores, is_best), (scores.t(), is_best.t())):
        best = min(size, matrix.shape[1])
        for block, block_marks in zip(matrix.split(BLOCK), marks.split(BLOCK), strict=True):
            values = block.contiguous()
            last = values.topk(best, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
            block_marks |= values >= last * (1 - TIE)
    return is_best


def put_first(estimates: Tensor, is_listed: Tensor, scores: Tensor) -> Tensor:
    """Return scores (I, C) that rank the listed pairs by their real scores, all others behind them by the estimate.

    Args:
        estimates: (I, C).
        is_listed: (I, C) bool.
        scores: (P,) real ones of the listed pairs, in the order of `torch.nonzero`.
    """
    low, high = torch.aminmax(estimates)
    ranked = estimates - high
    ranked /= (high - low).clamp(min=1e-12)  # -1 .. 0
    ranked += scores.min() - 1
    ranked[is_listed] = scores.to(ranked.dtype)
    return ranked


@dataclass(frozen=True)
class Shortlisted:
    """Scores of shortlisted pairs, all others behind them.

    Attributes:
        sims: (I, C) float32 of each network by its name and, of several, of their `mean`.
        share: of all pairs, those that a network scored, on average.
    """

    sims: dict[str, np.ndarray]
    share: float


def shortlisted_similarities(
    matchers: Mapping[str, Matcher],
    split: Split,
    device: torch.device,
    *,
    size: int,
    seed: int = 0,
    folds: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> Shortlisted:
    """Score the shortlisted pairs of a split with several networks.

    Every network has a shortlist of its own, and so has the mean of their scores, by the mean of the estimates: what
    one network knows must not improve another's result.

    Args:
        matchers: the networks by name.
        split: what is ranked.
        device: where the networks are.
        size: K, candidates of each image and of each caption.
        seed: the pairs of the regressions are drawn with it.
        folds: image and caption numbers of parts that are ranked on their own, too: they get shortlists of their own.
    """
    galleries = {name: encode_split(matcher, split, device) for name, matcher in matchers.items()}
    estimates = {}
    for name, matcher in matchers.items():
        with evaluating(matcher):
            estimates[name] = estimated_scores(matcher.similarity, galleries[name], generator(seed, "shortlist", name))
    last = "mean" if len(matchers) > 1 else next(iter(matchers))
    if last not in estimates:
        mean = torch.zeros(split.num_images, len(split.lengths))
        for estimate in estimates.values():
            mean += estimate / len(matchers)
        estimates[last] = mean
    listed = {name: best_pairs(estimate, size) for name, estimate in estimates.items()}
    for images, captions in folds:
        part = np.ix_(images, captions)
        for name, estimate in estimates.items():
            listed[name][part] |= best_pairs(estimate[part], size)
    ranked, num_scored = {}, 0
    of_mean = torch.zeros(int(listed[last].sum()))
    for name, matcher in matchers.items():
        image, caption = torch.nonzero(listed[name] | listed[last], as_tuple=True)
        with evaluating(matcher):
            scores = score_chosen(matcher.similarity, galleries.pop(name), image, caption)
        ranked[name] = put_first(estimates.pop(name), listed[name], scores[listed[name][image, caption]])
        of_mean += scores[listed[last][image, caption]] / len(matchers)
        num_scored += len(scores)
    if last not in ranked:
        ranked[last] = put_first(estimates[last], listed[last], of_mean)
    share = num_scored / (len(matchers) * split.num_images * len(split.lengths))
    return Shortlisted({name: sims.numpy() for name, sims in ranked.items()}, share)
