"""Made-up data and networks of published sizes, for timing: nothing here can be learned.

Flickr30K's and MS-COCO's published sizes: 36 regions x 2,048 dimensions, embedding 1,024, similarity vectors of 256,
some 8,500 words, and Flickr30K's lengths of captions. Legend: B pairs, R regions, D feature dimensions, W words.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_utils.loaders import Batch
from data_utils.precomputed import PrecomputedSplit
from models.matcher import Matcher, MatcherConfig, MatcherShape
from vocab.vocabulary import SPECIAL, Vocabulary

NUM_REGIONS = 36
REGION_DIM = 2048
VOCABULARY_SIZE = 8500

MEAN_LENGTH, LENGTH_SIGMA = 14.0, 0.37
SHORTEST, LONGEST = 5, 53
"""Tokens of a caption, `<start>` and `<end>` among them: a log-normal with Flickr30K's mean, deviation and extremes."""

WRITTEN_ROWS = 256
"""So many images' features are drawn and written at a time."""


def caption_lengths(count: int, generator: torch.Generator) -> Tensor:
    """Draw numbers of tokens (count,) int64 as Flickr30K has them."""
    centre = math.log(MEAN_LENGTH) - LENGTH_SIGMA**2 / 2
    lengths = torch.exp(centre + LENGTH_SIGMA * torch.randn(count, generator=generator))
    return lengths.round().long().clamp(SHORTEST, LONGEST)


def random_batch(
    size: int,
    *,
    num_regions: int = NUM_REGIONS,
    region_dim: int = REGION_DIM,
    captions_per_image: int = 1,
    seed: int = 0,
) -> Batch:
    """Draw a batch of `size` pairs; `captions_per_image` consecutive ones share an image."""
    random = torch.Generator().manual_seed(seed)
    lengths = caption_lengths(size, random)
    width = int(lengths.max())
    tokens = torch.randint(len(SPECIAL), VOCABULARY_SIZE, (size, width), generator=random)
    tokens[torch.arange(width) >= lengths[:, None]] = 0
    image_id = torch.arange(size) // captions_per_image
    regions = torch.randn(int(image_id[-1]) + 1, num_regions, region_dim, generator=random)
    return Batch(regions=regions[image_id], tokens=tokens, lengths=lengths, index=torch.arange(size), image_id=image_id)


def published_matcher(
    module_name: str = "SGR",
    *,
    dropout: float = 0.0,
    embed_size: int = 1024,
    num_regions: int = NUM_REGIONS,
    region_dim: int = REGION_DIM,
    seed: int = 0,
) -> Matcher:
    """Build an untrained network of published sizes."""
    torch.manual_seed(seed)
    config = MatcherConfig(module_name=module_name, dropout=dropout, embed_size=embed_size)
    return Matcher(config, MatcherShape(VOCABULARY_SIZE, num_regions, region_dim))


@contextmanager
def published_split(
    num_images: int,
    captions_per_image: int = 5,
    *,
    num_regions: int = NUM_REGIONS,
    region_dim: int = REGION_DIM,
    seed: int = 0,
) -> Iterator[PrecomputedSplit]:
    """Write a made-up `test` split to a folder of its own, yield it opened, and remove the folder afterwards."""
    random = torch.Generator().manual_seed(seed)
    words = [f"word{k}" for k in range(VOCABULARY_SIZE - len(SPECIAL))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = (num_images, num_regions, region_dim)
        features = np.lib.format.open_memmap(folder / "test_ims.npy", mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, num_images, WRITTEN_ROWS):
            rows = min(WRITTEN_ROWS, num_images - start)
            features[start : start + rows] = torch.randn(rows, *shape[1:], generator=random).numpy()
        features.flush()
        del features
        lines = []
        for length in caption_lengths(num_images * captions_per_image, random).tolist():
            chosen = torch.randint(len(words), (length - 2,), generator=random).tolist()
            lines.append(" ".join(words[k] for k in chosen))
        (folder / "test_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield PrecomputedSplit(folder, "test", Vocabulary([*SPECIAL, *words]))
