"""How fast is an evaluation? The published formulation against ours, in turn in one process, at published sizes.

    python -m benchmarks.evaluation --json evaluation.json

Both encode, score and rank a whole split: 36 regions x 2,048 dimensions, embedding 1,024, similarity vectors of 256 and
Flickr30K's lengths of captions, all made up. The published one scores one caption at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks import published
from benchmarks.measure import Results, Row, compare, device_of, tell
from benchmarks.published_sizes import published_matcher, published_split
from data_utils.precomputed import PrecomputedSplit
from models.ensemble import similarities
from models.matcher import Matcher, bf16_is_supported
from models.ranks import retrieval
from runtime.errors import exit_on_input_error
from runtime.flags import check_choices, check_range, flag
from tools.command import check_writable, parsed

Scoring = Callable[[Matcher, PrecomputedSplit, torch.device], np.ndarray]
"""Scores a split, (images, captions)."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Flags of this benchmark."""

    device: str = flag("cpu", "where to compute", choices=("cpu", "cuda"))
    repeats: int = flag(3, "timed runs of each formulation; the median counts")
    json: str | None = flag(None, "write the rows to this JSON file", metavar="FILE")
    module_name: str = flag("SGR", "similarity", choices=("SGR", "SAF"))
    images: int = flag(200, "images of the made-up split")
    captions_per_image: int = flag(5, "captions of each of them")
    embed_size: int = flag(1024, "dimensions of the joint space")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("repeats", "images", "captions_per_image", "embed_size"):
            check_range(self, name, low=1)
        check_writable("json", self.json)


def _in_bf16(matcher: Matcher, split: PrecomputedSplit, device: torch.device) -> np.ndarray:
    matcher.similarity.scoring_dtype = torch.bfloat16
    try:
        return similarities(matcher, split, device)
    finally:
        matcher.similarity.scoring_dtype = None


def measure(config: BenchmarkConfig, matcher: Matcher, split: PrecomputedSplit) -> list[Row]:
    """Compare every scoring with the published one on one network and split."""
    device = device_of(config.device)

    def evaluate(scoring: Scoring) -> Results:
        sims = scoring(matcher, split, device)
        retrieval(sims, split.image_of_caption)
        return {"scores": torch.from_numpy(sims)}

    ours: dict[str, Scoring] = {"exact": similarities}
    if bf16_is_supported(device):
        ours["bf16"] = _in_bf16
    return compare(
        partial(evaluate, lambda m, s, _: published.evaluate(m, s)),
        {f"{split.num_images} x {len(split)}, {name}": partial(evaluate, own) for name, own in ours.items()},
        repeats=config.repeats,
        device=device,
    )


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Time the rows, print them and write them."""
    kinds = {"benchmark": BenchmarkConfig}
    (config,) = parsed("benchmarks.evaluation", "Published against our evaluation.", argv, kinds)
    matcher = published_matcher(config.module_name, embed_size=config.embed_size).to(config.device)
    with published_split(config.images, config.captions_per_image) as split:
        rows = measure(config, matcher, split)
    tell(rows, config.json)


if __name__ == "__main__":
    main()
