"""A small split on disk and small networks for it."""

from __future__ import annotations

from pathlib import Path

import torch

from data_utils.precomputed import PrecomputedSplit
from models.matcher import Matcher, MatcherConfig, MatcherShape
from tests.models.networks import randomise
from tests.tiny import make_tiny_data
from vocab.vocabulary import Vocabulary


def small_split(folder: Path, images: int = 7) -> PrecomputedSplit:
    """Write and open a split of so many images with 5 captions each."""
    root = make_tiny_data(folder, images={"train": 6, "dev": images, "test": 2})
    vocabulary = Vocabulary.load(root / "vocab" / "tiny_precomp_vocab.json")
    return PrecomputedSplit(root / "data" / "tiny_precomp", "dev", vocabulary)


def small_matcher(split: PrecomputedSplit, module_name: str, *, seed: int = 0) -> Matcher:
    """Build a small network for a split, with parameters drawn at random."""
    torch.manual_seed(seed)
    config = MatcherConfig(module_name=module_name, word_dim=6, embed_size=8, sim_dim=5)
    matcher = Matcher(config, MatcherShape(60, *split.region_shape))
    randomise(matcher)
    return matcher.eval()
