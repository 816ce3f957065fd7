"""New partners for captions and images that have lost theirs: offers of pairs to train on, each with a confidence.

Every caption that a network does not trust in its given image is offered the image it scores highest with, every image
without a trusted caption the caption it scores highest with. Of thousands of images the highest score is high by
chance; so others speak for an offer: the trusted captions of the image and of its nearest images. The agreement of an
offer is the best cosine of its caption with theirs, and its confidence the share of trusted pairs whose own agreement,
found in the same way without themselves, is lower: an offer is as credible as it looks like a pair that is trusted. Of
two networks an offer has the mean of both confidences, 0 where a network does not make it; above MIN_CONFIDENCE it is
trained on. *Ours*.
Legend: V images, N captions, M offers, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.blocks.consensus import HELD, PairBank, best_agreement, captions_given
from methods.blocks.neighbours import nearest

MIN_CONFIDENCE = 0.5
"""Offers up to here are not trained on."""

NEIGHBOURS, LENT = 5, 2
"""So many captions of so many nearest images speak beside an image's own."""


@dataclass(frozen=True)
class Offers:
    """Pairs of the training set's captions and images that were not given.

    Attributes:
        caption, image: (M,) int64.
        confidence: (M,) in [0, 1].
    """

    caption: np.ndarray
    image: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.caption)

    def as_state(self) -> dict[str, Any]:
        """Return tensors."""
        return {name: torch.from_numpy(values) for name, values in vars(self).items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Offers:
        """Return the offers of `as_state`."""
        return cls(**{name: values.numpy() for name, values in state.items()})


def _highest(bank: PairBank, rows: Tensor, of_captions: bool) -> Tensor:
    """Return the image of highest score for each of `rows` (n,) captions, or the caption for each of `rows` images."""
    own = bank.captions if of_captions else bank.images
    others, part = (bank.images, bank.image_part) if of_captions else (bank.captions, bank.caption_part)
    blocks = rows.split(max(1, HELD // len(others)))
    return torch.cat([torch.addmm(part, own[block] * bank.slope, others.t()).argmax(dim=1) for block in blocks])


def _witnesses(bank: PairBank, trusted: Tensor) -> Tensor:
    """Return who speaks for each image (V, n), -1 for nobody: its trusted captions, and some of its nearest images'.

    Args:
        trusted: (N,) bool.
    """
    nobody = len(bank.images)
    given = captions_given(bank.image_of_pair.masked_fill(~trusted, nobody), nobody + 1)[:-1]
    near = nearest(bank.images, NEIGHBOURS, group=bank.picture)  # (V, k)
    lent = given[near.clamp(min=0), :LENT].masked_fill(near[:, :, None] < 0, -1)
    return torch.cat([given, lent.flatten(1)], dim=1)


def _agreement(bank: PairBank, witnesses: Tensor, image: Tensor, caption: Tensor) -> Tensor:
    """Return the best cosine of captions (P,) with the witnesses of images (P,), themselves left out."""
    heard = witnesses[image]
    return best_agreement(bank, caption, heard.masked_fill(heard == caption[:, None], -1), 1)


def usual_agreement(bank: PairBank, trusted: Tensor, witnesses: Tensor | None = None) -> Tensor:
    """Return the agreement of trusted pairs, themselves left out, in rising order.

    Args:
        bank: the training set as one network has encoded it.
        trusted: (N,) bool.
        witnesses: of `_witnesses`, if they are known.
    """
    known = torch.nonzero(trusted).flatten()
    heard = _witnesses(bank, trusted) if witnesses is None else witnesses
    return _agreement(bank, heard, bank.image_of_pair[known], known).sort().values


def make_offers(bank: PairBank, trusted: np.ndarray) -> Offers:
    """Return what one network offers, all offers with their confidence; none without a trusted pair.

    Args:
        bank: the training set as the network has encoded it.
        trusted: (N,) bool, the pairs that the network takes for clean.
    """
    device = bank.images.device
    is_trusted = torch.from_numpy(trusted).to(device)
    known, lost = torch.nonzero(is_trusted).flatten(), torch.nonzero(~is_trusted).flatten()
    has_caption = torch.zeros(len(bank.images), dtype=torch.bool, device=device)
    has_caption[bank.image_of_pair[known]] = True
    orphans = torch.nonzero(~has_caption).flatten()
    if not len(known) or not len(lost) + len(orphans):
        return Offers(*(np.empty(0, dtype=kind) for kind in (np.int64, np.int64, np.float64)))
    captions = torch.cat([lost, _highest(bank, orphans, False)])
    images = torch.cat([_highest(bank, lost, True), orphans])
    witnesses = _witnesses(bank, is_trusted)
    usual = usual_agreement(bank, is_trusted, witnesses)
    found = _agreement(bank, witnesses, images, captions)
    below = torch.searchsorted(usual, found.contiguous(), right=True) + torch.searchsorted(usual, found.contiguous())
    confidence = below.double() / (2 * len(usual))
    return Offers(captions.cpu().numpy(), images.cpu().numpy(), confidence.cpu().numpy())


def joint_offers(of_networks: Sequence[Offers], is_clean: np.ndarray, image_of_pair: np.ndarray) -> Offers:
    """Return the offers of all networks above MIN_CONFIDENCE, by their mean confidence.

    Args:
        of_networks: each network's.
        is_clean: (N,) bool, the division that they join: a caption of its clean side is offered only to an image that
            has no other.
        image_of_pair: (N,) the image given to each caption.
    """
    pairs = np.concatenate([np.stack([offers.caption, offers.image], axis=1) for offers in of_networks])
    confidence = np.concatenate([offers.confidence for offers in of_networks])
    unique, where = np.unique(pairs, axis=0, return_inverse=True)
    mean = np.bincount(where.reshape(-1), weights=confidence, minlength=len(unique)) / len(of_networks)
    caption, image = unique[:, 0], unique[:, 1]
    has_clean = np.isin(image, image_of_pair[is_clean])
    kept = (mean > MIN_CONFIDENCE) & ~(is_clean[caption] & has_clean)
    return Offers(caption[kept], image[kept], mean[kept])
