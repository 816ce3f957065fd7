"""Open what a run reads: vocabulary, train, dev and test splits, and the noise of the training pairs."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.catalog import DataConfig, locate, protocol, vocabulary_file
from data_utils.loaders import MIN_BATCH
from data_utils.noise import NoiseConfig, NoiseReport, inject
from data_utils.precomputed import PrecomputedSplit
from models.matcher import MatcherConfig, MatcherShape
from runtime.checkpoint import REAL
from runtime.errors import InputError
from vocab.vocabulary import Vocabulary


@dataclass(frozen=True)
class RunData:
    """The splits of a run.

    Attributes:
        truth_is_known: which training pairs are mismatched is known, since the suite or an index file moved them.
        made_index: the noise index file that was not there and has been made.
    """

    vocabulary: Vocabulary
    train: PrecomputedSplit
    dev: PrecomputedSplit
    test: PrecomputedSplit
    noise: NoiseReport
    truth_is_known: bool
    made_index: Path | None = None

    @property
    def shape(self) -> MatcherShape:
        """What the data fixes of a matcher."""
        regions, size = self.train.region_shape
        return MatcherShape(vocabulary_size=len(self.vocabulary), num_regions=regions, region_dim=size)

    @property
    def noise_record(self) -> dict[str, Any]:
        """The noise as plain values; of real noise no ratio is known."""
        return asdict(self.noise) if self.truth_is_known else REAL

    def without_noise(self) -> RunData:
        """Return the same data with the matched training pairs alone.

        Raises:
            InputError: which pairs are mismatched is not known, or no two pairs are matched.
        """
        if not self.truth_is_known:
            raise InputError("--remove_noise: which pairs of this data set are mismatched is not known")
        matched = np.flatnonzero(self.train.is_matched)
        if len(matched) < MIN_BATCH:
            raise InputError(f"--remove_noise leaves {len(matched)} training pairs; at least {MIN_BATCH} are needed")
        return replace(self, train=self.train.with_pairs(matched, self.train.image_of_pair[matched]))

    def digest(self) -> str:
        """Return a digest of which image every training pair has, and of image ids that say more than position does."""
        digest = hashlib.sha256(np.ascontiguousarray(self.train.image_of_pair, dtype="<i8").tobytes())
        for split in (self.train, self.dev, self.test):
            if not split.counts.is_by_position:
                digest.update(split.name.encode())
                digest.update(np.ascontiguousarray(split.image_of_caption, dtype="<i8").tobytes())
        return digest.hexdigest()


def open_data(data: DataConfig, noise: NoiseConfig, matcher: MatcherConfig) -> RunData:
    """Open all splits, the test split too, so that a missing file is told before hours of training.

    Raises:
        InputError: anything missing, broken or not fitting together.
    """
    folder, rules = locate(data), protocol(data.data_name)
    vocabulary = Vocabulary.load(vocabulary_file(data))
    train = PrecomputedSplit(folder, "train", vocabulary)
    dev = PrecomputedSplit(folder, "dev", vocabulary, rules.dev_images)
    test = PrecomputedSplit(folder, "test", vocabulary)
    for split in (train, dev, test):
        split.check_features()
        if split.region_shape != train.region_shape:
            raise InputError(
                f"{split.regions.path} has regions x dimensions {split.region_shape}, {train.regions.path} has "
                f"{train.region_shape}; all splits must agree"
            )
    if matcher.img_dim is not None and matcher.img_dim != train.region_shape[1]:
        raise InputError(
            f"--img_dim {matcher.img_dim} does not fit {train.regions.path}, whose regions have "
            f"{train.region_shape[1]} dimensions; leave the flag out"
        )
    made = Path(noise.noise_file) if noise.noise_file and not Path(noise.noise_file).is_file() else None
    index, report = inject(noise, train.image_of_caption, has_real_noise=rules.has_real_noise)
    train.set_images(index)
    return RunData(vocabulary, train, dev, test, report, not rules.has_real_noise, made)
