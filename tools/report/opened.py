"""What a report computes with: a run's networks and the data that they were trained on.

Legend: Q queries, I images, C captions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from data_utils.captions import read_captions
from data_utils.catalog import DataConfig, locate
from data_utils.noise import NoiseConfig
from evaluation import restore
from models.encoded_split import EncodedSplit, encode_split
from models.matcher import Matcher, MatcherConfig
from runtime.checkpoint import load_checkpoint
from runtime.errors import InputError
from tools.pages.pictures import Thumbnails, find_pictures
from tools.report.runs import Run
from training.data import RunData, open_data


@dataclass(frozen=True)
class Sources:
    """Where data and pictures are, and what computes.

    Attributes:
        data_path, vocab_path: folders, in place of those of the run.
        pictures: folder that the paths of `{split}_images.txt` start from.
        wants_pictures: False leaves pictures out.
        grid: regions are grid x grid cells of the picture; None: told by the data set.
        device: where the networks run.
        remarks: gathers what is to be said of pictures.
    """

    data_path: str | None = None
    vocab_path: str | None = None
    pictures: str | None = None
    wants_pictures: bool = True
    grid: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OpenedRun:
    """A run with its networks by name, its data and, if there are any, its pictures."""

    run: Run
    matchers: dict[str, Matcher]
    data: RunData
    folder: Path
    sources: Sources

    def captions(self, split: str) -> list[str]:
        """Return the captions of a split's pairs as they were written."""
        lines = read_captions(self.folder, split)
        return [lines[k] for k in getattr(self.data, split).line_of_caption.tolist()]

    @cached_property
    def galleries(self) -> dict[str, EncodedSplit]:
        """The test split as every network encodes it."""
        return {name: encode_split(m, self.data.test, self.sources.device) for name, m in self.matchers.items()}

    def thumbnails(self, split: str) -> Thumbnails | None:
        """Return the pictures of a split, None if there are none or none are wanted.

        Raises:
            InputError: they do not fit the data.
        """
        if not self.sources.wants_pictures:
            return None
        num_images = getattr(self.data, split).num_images
        found = find_pictures(self.folder, split, num_images, self.sources.pictures, self.sources.remarks.append)
        return None if found is None else Thumbnails(found)


def data_config(run: Run, sources: Sources) -> DataConfig:
    """Return where a run's data are: as told by flags, else as in training."""
    stored = run.config["data"]
    return DataConfig(
        data_name=stored["data_name"],
        data_path=sources.data_path or stored.get("data_path"),
        vocab_path=sources.vocab_path or stored.get("vocab_path"),
    )


def open_run(run: Run, sources: Sources) -> OpenedRun:
    """Restore a run's networks and open its data with its noise.

    Raises:
        InputError: no checkpoint yet, or data that are missing or not those of the run.
    """
    if run.checkpoint is None:
        raise InputError(f"{run.folder} has no checkpoint yet: no epoch has been validated")
    noise = NoiseConfig(**run.config["noise"])
    if noise.noise_file is not None and not Path(noise.noise_file).is_file():
        raise InputError(f"the noise index {noise.noise_file} of {run.folder} is not there any more")
    checkpoint = load_checkpoint(run.checkpoint)
    config = data_config(run, sources)
    data = open_data(config, noise, MatcherConfig(**run.config["matcher"]))
    if run.config["training"].get("remove_noise"):
        data = data.without_noise()
    if data.vocabulary.digest() != checkpoint["vocabulary_digest"]:
        raise InputError(f"the vocabulary of {run.data_name} is not the one that {run.folder} was trained with")
    matchers = {chr(ord("A") + k): m for k, m in enumerate(restore(checkpoint, str(run.checkpoint)))}
    for matcher in matchers.values():
        matcher.to(sources.device).eval()
    return OpenedRun(run, matchers, data, locate(config), sources)
