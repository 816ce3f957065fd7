"""What is known of a pair beside what a method thinks of it: do its neighbours agree, and what do all signals say?

If caption c belongs to image v, it agrees with the captions of images that look like v, and with those images; and v
agrees with the images of captions that read like c, and with those captions:

    captions_near   mean of the best `votes` cosines of c with the captions given to v's k nearest images
    images_near     mean score of c with v's k nearest images
    images_read     mean of the best `votes` cosines of v with the images given to c's k nearest captions
    captions_read   mean score of v with c's k nearest captions

A pair is no witness to itself: v, pictures that are v to the last bit, and all captions given to these are no
neighbours. Captions of the same words under other pictures are: that is what agreement is.

Each of these signals, and the method's own, is divided by a mixture of its own and becomes log-odds l_s; one whose two
components are hardly apart hardly counts. What a mismatch looks like is known: captions with images drawn at random. A
signal's weight w_s is what it is `worth`: how well it tells the given pairs from such ones. The consensus is
sum_s w_s l_s, the mean over both networks, and an exponential average over divisions.

A mixture divides clean data too. The share of given pairs that look like random ones is `share_like_random`; networks
learn some mismatched pairs by heart, so that it is rather too low. `tempered` lets no more than TOLERANCE times that
share be noisy, that is at or below `--p_threshold`.
*Ours*. Legend: V images, N captions (and training pairs), P pairs asked about, k neighbours, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from methods.blocks.mixture import clean_probability
from methods.blocks.neighbours import nearest

SIGNALS = ("captions_near", "images_near", "images_read", "captions_read")
CAPTIONS_HEARD = 8
"""Of an image so many captions are heard, those of lowest number."""

HELD = 2**24
"""Numbers of neighbours' vectors that are gathered at a time: 64 MiB."""

SHORTEST = 1e-12
"""A vector shorter than this has cosine 0 with everything."""

NOTHING = -1.0
"""Agreement of a pair without any neighbour: that of opposites."""


@dataclass(frozen=True)
class PairBank:
    """The training set as one network has encoded it.

    The score of image v with caption c is sum_d slope_d x_vd y_cd + image_part_v + caption_part_c; where the network's
    similarity is not of this form, that is an estimate of it.

    Attributes:
        images, captions: (V, D), (N, D) vectors x and y, in which neighbours are looked for by cosine.
        slope: (D,).
        image_part, caption_part: (V,), (N,).
        image_of_pair: (N,) the image given to each caption.
        picture: (V,) numbers, the same for pictures that are equal to the last bit.
    """

    images: Tensor
    captions: Tensor
    slope: Tensor
    image_part: Tensor
    caption_part: Tensor
    image_of_pair: Tensor
    picture: Tensor


def captions_given(image_of_pair: Tensor, num_images: int) -> Tensor:
    """Return the captions given to each image, (V, up to CAPTIONS_HEARD), lowest numbers first, -1 where none."""
    order = torch.argsort(image_of_pair, stable=True)
    image = image_of_pair[order]
    count = torch.bincount(image_of_pair, minlength=num_images)
    place = torch.arange(len(order), device=order.device) - (count.cumsum(0) - count)[image]
    heard = place < CAPTIONS_HEARD
    width = min(CAPTIONS_HEARD, int(count.max())) if len(order) else 0
    given = torch.full((num_images, width), -1, dtype=torch.long, device=order.device)
    given[image[heard], place[heard]] = order[heard]
    return given


def _best(values: Tensor, is_there: Tensor, votes: int) -> Tensor:
    """Return the mean of the `votes` largest of (P, n), fewer where there are fewer, NOTHING where there are none."""
    top = values.masked_fill(~is_there, -torch.inf).topk(min(votes, values.shape[1]), dim=1).values
    counted = torch.isfinite(top)
    total = top.masked_fill(~counted, 0.0).sum(dim=1)
    return torch.where(counted.any(dim=1), total / counted.sum(dim=1).clamp(min=1), torch.full_like(total, NOTHING))


def _mean(values: Tensor, is_there: Tensor) -> Tensor:
    """Return the mean of (P, n) where there is something; where there is nothing, NaN."""
    return (values * is_there).sum(dim=1) / is_there.sum(dim=1)


def best_agreement(bank: PairBank, caption: Tensor, heard: Tensor, votes: int) -> Tensor:
    """Return the mean of the `votes` best cosines of captions (P,) with the captions `heard` (P, n; -1: nobody)."""
    if not heard.shape[1]:
        return torch.full((len(caption),), NOTHING, device=caption.device)
    size = max(1, HELD // (heard.shape[1] * bank.captions.shape[1]))
    parts = [
        _best(_cosines(bank.captions[own], bank.captions[others.clamp(min=0)]), others >= 0, votes)
        for own, others in zip(caption.split(size), heard.split(size), strict=True)
    ]
    return torch.cat(parts)


def _cosines(own: Tensor, others: Tensor) -> Tensor:
    """Return the cosines (P, n) of vectors (P, D) with (P, n, D)."""
    lengths = torch.linalg.vector_norm(own, dim=1, keepdim=True) * torch.linalg.vector_norm(others, dim=2)
    return torch.bmm(others, own[:, :, None]).squeeze(2) / lengths.clamp(min=SHORTEST)


class Agreement:
    """Neighbourhoods of a bank's images and captions.

    Args:
        bank: what one network has encoded.
        count: k; more than there are: all there are.
        votes: neighbours' cosines that count, the best ones.
        space: (V, any) other vectors in which images' neighbours are looked for; None: the bank's.
    """

    def __init__(self, bank: PairBank, *, count: int = 10, votes: int = 2, space: Tensor | None = None) -> None:
        self._bank, self._votes = bank, votes
        self._near = nearest(bank.images if space is None else space, count, group=bank.picture)
        self._read = nearest(bank.captions, count, group=bank.picture[bank.image_of_pair])
        self._given = captions_given(bank.image_of_pair, len(bank.images))

    @property
    def fewest(self) -> int:
        """Neighbours of the image or caption that has fewest."""
        return min(int((found >= 0).sum(dim=1).min()) if found.numel() else 0 for found in (self._near, self._read))

    def signals(self, image: Tensor, caption: Tensor) -> dict[str, Tensor]:
        """Return each of SIGNALS (P,) for the pairs of image (P,) and caption (P,); finite, high where they agree.

        A pair without neighbours has the lowest value that any pair with neighbours has.
        """
        parts = [self._some(image[rows], caption[rows]) for rows in self._blocks(len(image))]
        return {name: _filled(torch.cat([part[name] for part in parts])) for name in SIGNALS}

    def scores(self, image: Tensor, caption: Tensor) -> Tensor:
        """Return the score (P,) of image (P,) with caption (P,), or its estimate."""
        bank, size = self._bank, max(1, HELD // self._bank.images.shape[1])
        parts = [
            (bank.images[v] * bank.slope * bank.captions[c]).sum(dim=1) + bank.image_part[v] + bank.caption_part[c]
            for v, c in zip(image.split(size), caption.split(size), strict=True)
        ]
        return torch.cat(parts)

    def _blocks(self, count: int) -> Iterator[slice]:
        heard = self._near.shape[1] * max(1, self._given.shape[1])
        size = max(1, HELD // max(1, heard * self._bank.images.shape[1]))
        return (slice(start, start + size) for start in range(0, max(1, count), size))

    def _some(self, image: Tensor, caption: Tensor) -> dict[str, Tensor]:
        bank = self._bank
        near, read = self._near[image], self._read[caption]  # (P, k)
        heard = self._given[near.clamp(min=0)].masked_fill(near[:, :, None] < 0, -1).flatten(1)
        heard = heard.masked_fill(heard == caption[:, None], -1)
        shown = bank.image_of_pair[read.clamp(min=0)]
        is_other = bank.picture[shown] != bank.picture[image][:, None]

        x, y = bank.images[image], bank.captions[caption]  # (P, D)
        near_images, read_captions = near.clamp(min=0), read.clamp(min=0)
        with_images = torch.bmm(bank.images[near_images], (bank.slope * y)[:, :, None]).squeeze(2)
        with_captions = torch.bmm(bank.captions[read_captions], (bank.slope * x)[:, :, None]).squeeze(2)
        is_read = (read >= 0) & is_other
        return {
            "captions_near": best_agreement(bank, caption, heard, self._votes),
            "images_near": _mean(with_images + bank.image_part[near_images], near >= 0) + bank.caption_part[caption],
            "images_read": _best(_cosines(x, bank.images[shown]), is_read, self._votes),
            "captions_read": _mean(with_captions + bank.caption_part[read_captions], is_read) + bank.image_part[image],
        }


def _filled(values: Tensor) -> Tensor:
    """Put the lowest number in the place of NaN; 0 if there is no number at all."""
    missing = values.isnan()
    if not missing.any():
        return values
    return values.masked_fill(missing, float(values[~missing].min()) if not missing.all() else 0.0)


def same(rows: np.ndarray) -> np.ndarray:
    """Return a number for each row (n, D), equal for rows that are equal to the last bit."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in np.ascontiguousarray(rows)])


# -- what all signals say together

SURE = 1e-3
"""No signal is surer of a pair than this."""

TINY = 1e-9


TOLERANCE = 2.0
"""Estimates on the embedded set, after warm-up and three epochs later, of 40 and 60 % mismatched pairs: bounded loss
.36 to .38 and .43 to .48, InfoNCE .24 to .31 and .34 to .41; of 0 %: .003."""


@dataclass(frozen=True)
class Consensus:
    """What signals say together.

    Attributes:
        log_odds: (N,) of clean against noisy; finite.
        weights: each signal's, of sum 1; all 0 if no signal tells pairs apart.
        share_noisy: estimated share of mismatched pairs; 1 where nothing is known.
    """

    log_odds: np.ndarray
    weights: dict[str, float]
    share_noisy: float = 1.0


def worth(given: np.ndarray, drawn: np.ndarray) -> float:
    """Return how well a signal tells given pairs from pairs drawn at random: 2 AUC - 1, in [0, 1], negative ones 0.

    Args:
        given, drawn: the signal (N,) and (M,), high for clean pairs.
    """
    from scipy.stats import rankdata  # here: it takes long to load

    ranks = rankdata(np.concatenate([given, drawn]))[: len(given)]
    area = (ranks.mean() - (len(given) + 1) / 2) / len(drawn)
    return float(max(0.0, 2 * area - 1))


def consensus(signals: Mapping[str, np.ndarray], worths: Mapping[str, float], fit_type: str) -> Consensus:
    """Return the consensus of signals (N,) each, high for clean pairs.

    Args:
        signals: finite.
        worths: what each is worth, at least 0.
        fit_type: the mixture that divides each signal.

    Raises:
        ValueError: what `clean_probability` raises.
    """
    from scipy.special import logit  # here: it takes long to load

    total = sum(worths[name] for name in signals)
    weights = {name: worths[name] / total if total > 0 else 0.0 for name in signals}
    log_odds = np.zeros(len(next(iter(signals.values()))))
    for name, values in signals.items():
        if weights[name]:
            probability = clean_probability(-np.asarray(values, dtype=np.float64), fit_type, monotone=True)
            log_odds += weights[name] * logit(probability.clip(SURE, 1 - SURE))
    return Consensus(log_odds, weights)


def share_like_random(given: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]) -> float:
    """Return the share of given pairs that look like pairs drawn at random, in [0, 1].

    The signals are added up in units of their deviation; of pairs at random half lie below their median m, so that
    twice the share of given pairs below m is an upper bound of the share that are such pairs.

    Args:
        given: signals (N,) of the given pairs.
        drawn: the same of pairs drawn at random.
    """
    total, other = np.zeros(1), np.zeros(1)
    for name, values in given.items():
        if spread := float(np.std(values)):
            total, other = total + values / spread, other + drawn[name] / spread
    return min(1.0, 2 * float(np.mean(total <= np.median(other))))


def tempered(probability: np.ndarray, share_noisy: float, threshold: float) -> np.ndarray:
    """Return the probabilities (N,) with the odds of all raised alike, until no more than TOLERANCE times `share_noisy`
    of them are at or below `threshold`, in [0, 1)."""
    from scipy.special import expit, logit  # here: it takes long to load

    most = TOLERANCE * share_noisy
    if most >= 1:
        return probability
    lowest = float(np.quantile(probability, most, method="higher"))
    if lowest > threshold:
        return probability
    just_above = threshold + min(1e-6, (1 - threshold) / 2)  # what equals the lowest is above it, too
    raised = logit(just_above) - logit(max(lowest, TINY))
    return expit(logit(probability.clip(TINY, 1 - TINY)) + raised)


def agreed(of_networks: Sequence[np.ndarray], earlier: np.ndarray | None, memory: float) -> np.ndarray:
    """Return the mean of all networks' log-odds (N,), averaged with those of earlier divisions.

    Args:
        of_networks: (N,) each.
        earlier: (N,) what this returned at the last division; None at the first.
        memory: share of `earlier` in the result, in [0, 1).
    """
    now = np.mean(of_networks, axis=0)
    return now if earlier is None else memory * earlier + (1 - memory) * now
