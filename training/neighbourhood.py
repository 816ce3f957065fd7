"""The training set as one network encodes it, for its neighbourhoods: one vector an image, one a caption.

Held: 4 bytes a number, of VSE and GPO as many numbers as --embed_size, of the others (the pooled vector beside the
plain mean) twice as many. Legend: V images, N captions, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_utils.precomputed import PrecomputedSplit
from methods.blocks.agreement import PairBank, same
from models.encoded_split import caption_vectors, encoded_captions, evaluating, image_blocks, image_vectors
from models.keys import Keys, fit_keys
from models.matcher import Matcher
from runtime.distributed import ALONE, Processes


@dataclass(frozen=True)
class Collected:
    """A bank, and the mean raw feature of every image, (V, feature dimensions)."""

    bank: PairBank
    features: Tensor


def collect_pairs(
    matcher: Matcher, split: PrecomputedSplit, device: torch.device, processes: Processes = ALONE
) -> Collected:
    """Encode every image and every caption once; of several processes each encodes some of the blocks.

    Raises:
        InputError: a score is not finite.
    """
    keys = fit_keys(matcher, split, device)
    size = matcher.region_encoder.fc.out_features * (1 if keys.are_exact else 2)
    images, captions = (torch.zeros(count, size, device=device) for count in (split.num_images, len(split)))
    features = torch.zeros(split.num_images, split.region_shape[1], device=device)
    with evaluating(matcher):
        for rows in processes.mine(image_blocks(split.num_images)):
            regions, where = split.read_images(rows), torch.from_numpy(rows).to(device)
            features[where] = regions.mean(dim=1).to(device)  # the same bits of equal pictures, wherever they stand
            side = matcher.encode_images(regions.to(device))
            images[where] = side.pooled if keys.are_exact else image_vectors(side)
        for numbers, captioned in encoded_captions(matcher, split, device, processes=processes):
            where = torch.from_numpy(numbers).to(device)
            captions[where] = captioned.pooled if keys.are_exact else caption_vectors(captioned)
    for values in (images, captions, features):
        processes.summed(values)
    picture = torch.from_numpy(same(features.cpu().numpy())).to(device)
    given = torch.from_numpy(np.asarray(split.image_of_pair, dtype=np.int64)).to(device)
    return Collected(_bank(keys, images, captions, given, picture), features)


def _bank(keys: Keys, images: Tensor, captions: Tensor, given: Tensor, picture: Tensor) -> PairBank:
    if keys.slope is None or keys.offset is None:
        slope, nothing = torch.ones_like(images[0]), images.new_zeros(())
        parts = nothing.expand(len(images)), nothing.expand(len(captions))
    else:
        slope = -2 * keys.slope
        parts = images.square() @ keys.slope + keys.offset, captions.square() @ keys.slope
    return PairBank(images, captions, slope, *parts, given, picture)
