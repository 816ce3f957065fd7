"""Captions that read alike: in a batch each is a match of the other's image, though not its own, and no negative.

Two captions of different pictures are alike if they are among each other's, or one among the other's, nearest and their
cosine is at least the usual agreement of a trusted caption: the median of its best cosine with captions of its own
image and of images near it. *Ours*. Legend: N captions, B pairs, k neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from methods.blocks.agreement import PairBank
from methods.blocks.neighbours import nearest
from methods.blocks.rematch import usual_agreement

ROUNDING = 1e-6
"""Cosines that differ by less are equal."""


def alike_captions(bank: PairBank, trusted: np.ndarray, count: int) -> np.ndarray:
    """Return the captions that read like each caption, (N, count) int32, -1 where there are no more.

    Args:
        bank: the training set as one network has encoded it.
        trusted: (N,) bool, the pairs that the network takes for clean; without one no captions are alike.
        count: k, neighbours looked at.
    """
    found = nearest(bank.captions, count, group=bank.picture[bank.image_of_pair])
    usual = usual_agreement(bank, torch.from_numpy(trusted).to(bank.captions.device))
    if not len(usual):
        return np.full(found.numbers.shape, -1, dtype=np.int32)
    is_alike = (found.numbers >= 0) & (found.cosines >= usual.median() - ROUNDING)
    return found.numbers.masked_fill(~is_alike, -1).to(torch.int32).cpu().numpy()


def alike_in_batch(caption: Tensor, alike: Tensor) -> Tensor:
    """Return which pairs of a batch have captions that are alike, or the same, (B, B) bool, never on the diagonal.

    Args:
        caption: (B,) numbers.
        alike: (B, k) the numbers of the captions that read like each, -1 for none.
    """
    names_other = (alike[:, :, None] == caption[None, None, :]).any(dim=1)
    found = names_other | names_other.t() | (caption[:, None] == caption[None, :])
    return found.fill_diagonal_(False)
