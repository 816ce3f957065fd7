"""The adapter's run from two embedding files to its results: hold out, rank, train, rank again, write.

Held-out pairs are as noisy as all others and are ranked as they are given; where the truth is known, once more by their
matched captions only. Legend: I images, C captions, D dimensions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from evaluation import result_table
from methods.blocks.dynamic_margin import MarginConfig
from models.ranks import Retrieval, retrieval
from runtime.device import choose_device
from runtime.errors import InputError
from runtime.files import write_json
from runtime.flags import check_range, flag
from runtime.seed import generator
from tools.filter.adapter import AdapterConfig, AdapterTraining
from tools.filter.filtering import EmbeddingPairs, FilterConfig, Rows, filter_pairs, filter_quality
from tools.filter.report import percent, quality_text

ADAPTER, ADAPTED_IMAGES, ADAPTED_CAPTIONS = "adapter.pt", "adapted_images.npy", "adapted_captions.npy"
RESULTS = "results.json"
BLOCK_NUMBERS = 2**22
"""Numbers of an embedding file that are in memory at a time."""
LARGEST_RANKING = 2 * 2**30
"""Bytes of the largest score matrix (float32) that is ranked."""


@dataclass(frozen=True)
class RankingConfig:
    """Flags of the pairs that are ranked before and after the adapter."""

    holdout: float = flag(
        0.1, "share of the images kept out of the adapter's training, with their captions; 0: none", metavar="RATIO"
    )
    holdout_images: int = flag(5000, "hold out so many images at most")
    test_images: str | None = flag(
        None, "rank these embeddings instead of held-out ones: FILE or FILE::NAME", metavar="FILE"
    )
    test_captions: str | None = flag(None, "their captions, as many an image as in --captions", metavar="FILE")

    def __post_init__(self) -> None:
        check_range(self, "holdout", low=0.0, high=1.0, high_open=True)
        check_range(self, "holdout_images", low=2)
        if (self.test_images is None) != (self.test_captions is None):
            raise InputError("--test_images and --test_captions belong together; give both or neither")


@dataclass(frozen=True)
class AdaptingConfig:
    """All flags of the adapter's run."""

    adapter: AdapterConfig
    ranking: RankingConfig
    filtering: FilterConfig
    margins: MarginConfig


def write_unit_rows(rows: Rows, path: Path) -> np.ndarray:
    """Write rows scaled to length 1 as float32 to an npy file, in blocks; return its memory map.

    Raises:
        InputError: a row that cannot be scaled (from reading it).
    """
    step = max(1, BLOCK_NUMBERS // rows.shape[1])
    target = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=rows.shape)
    for start in range(0, rows.shape[0], step):
        block = rows[start : start + step].astype(np.float64)
        block /= np.abs(block).max(axis=1, keepdims=True)  # squares of very long or short rows would leave the range
        target[start : start + step] = block / np.linalg.norm(block, axis=1, keepdims=True)
    target.flush()
    return target


def _write_units(pairs: EmbeddingPairs, folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    images, captions = folder / f"{name}_images.npy", folder / f"{name}_captions.npy"
    return write_unit_rows(pairs.images, images), write_unit_rows(pairs.captions, captions)


class TakenRows(Protocol):
    """A matrix of which any rows can be had by their numbers."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return these rows in memory."""


@dataclass(frozen=True)
class RankedSet:
    """Images and captions that are ranked against each other.

    Attributes:
        images: (I,) numbers of the image rows.
        captions: (C,) numbers of the caption rows.
        image_of_caption: (C,) place in `images` of each caption's image.
    """

    images: np.ndarray
    captions: np.ndarray
    image_of_caption: np.ndarray

    def __post_init__(self) -> None:
        needed = 4 * len(self.images) * len(self.captions)
        if needed > LARGEST_RANKING:
            raise InputError(
                f"ranking {len(self.images)} images against {len(self.captions)} captions needs {needed / 2**30:.1f} "
                f"GiB of scores, more than {LARGEST_RANKING / 2**30:g}; lower --holdout_images or give fewer test rows"
            )

    @classmethod
    def whole(cls, pairs: EmbeddingPairs) -> RankedSet:
        """Return all rows of two files."""
        return cls(np.arange(len(pairs.images)), np.arange(len(pairs)), pairs.image_of_caption)

    @classmethod
    def held_out(cls, image_of_caption: np.ndarray, num_images: int, config: RankingConfig, seed: int) -> RankedSet:
        """Choose images at random, with all their captions.

        Raises:
            InputError: fewer than two images would be held out.
        """
        size = min(round(config.holdout * num_images), config.holdout_images)
        if size < 2:
            raise InputError(
                f"--holdout {config.holdout:g} of {num_images} images is {size}, too few to rank; raise it, or give 0"
            )
        order = torch.randperm(num_images, generator=generator(seed, "holdout")).numpy()
        images = np.sort(order[:size])
        captions = np.flatnonzero(np.isin(image_of_caption, images))
        return cls(images, captions, np.searchsorted(images, image_of_caption[captions]))

    def of(self, is_wanted: np.ndarray) -> RankedSet:
        """Return the same images with only some captions; is_wanted is of all caption rows."""
        own = is_wanted[self.captions]
        return RankedSet(self.images, self.captions[own], self.image_of_caption[own])

    def rank(self, images: TakenRows, captions: TakenRows) -> Retrieval:
        """Rank by cosine; images and captions are rows of length 1 of which this set's are taken."""
        return retrieval(images[self.images] @ captions[self.captions].T, self.image_of_caption)


def open_test(pairs: EmbeddingPairs, config: RankingConfig) -> EmbeddingPairs | None:
    """Open the test files, if there are any.

    Raises:
        InputError: they cannot be read, do not fit together, are too many to rank, or of another width than `pairs`.
    """
    if config.test_images is None or config.test_captions is None:
        return None
    test = EmbeddingPairs.open(config.test_images, config.test_captions, pairs.captions_per_image)
    width, expected = test.images.shape[1], pairs.images.shape[1]
    if width != expected:
        raise InputError(f"{test.images.name} has {width} dimensions, {pairs.images.name} has {expected}")
    RankedSet.whole(test)
    return test


def adapt(
    pairs: EmbeddingPairs,
    test: EmbeddingPairs | None,
    is_matched: np.ndarray | None,
    config: AdaptingConfig,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Train the adapters and write them, the adapted embeddings and the figures into `folder`.

    Args:
        pairs: the embeddings that were cleaned.
        test: embeddings to rank, if not held-out ones.
        is_matched: (pairs,) the truth, if it is known; only for figures.
        config: the flags.
        folder: where to.
        say: prints a line or a table.

    Raises:
        InputError: the flags do not fit the files, or training diverges.
    """
    device = choose_device(config.adapter.gpu)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        units = ranked_rows = _write_units(pairs, Path(name), "given")
        is_training, sets = np.ones(len(pairs), dtype=bool), {}
        title = "nothing is held out and ranked (--holdout 0)"
        if test is not None:
            sets[""] = RankedSet.whole(test)
            ranked_rows, title = _write_units(test, Path(name), "test"), f"test: {test.describe()}"
        elif config.ranking.holdout:
            held = RankedSet.held_out(pairs.image_of_caption, len(pairs.images), config.ranking, config.filtering.seed)
            sets[""], is_training[held.captions] = held, False
            if is_matched is not None and is_matched[held.captions].any():
                sets[", matched only"] = held.of(is_matched)
            title = (
                f"held out: {len(held.images)} images, {len(held.captions)} captions; mismatched ones are ranked too"
            )
        say(title)
        results = {f"before{name}": members.rank(*ranked_rows) for name, members in sets.items()}
        training = AdapterTraining(
            *units,
            pairs.image_of_caption,
            is_training,
            config=config.adapter,
            filtering=config.filtering,
            margins=config.margins,
            device=device,
        )
        epochs, told = [], {""}
        for record in training.epochs():
            found, quality, noise = record.found, None, ""
            if is_matched is not None:
                quality = filter_quality(found.is_clean, found.probability, is_matched[training.pairs])
                noise = f", residual noise {percent(quality['residual_noise'])} %"
            say(record.text(config.adapter.num_epochs, noise))
            if found.modes.note not in told:
                told.add(found.modes.note)
                say(f"warning: {found.modes.note}")
            if record.loss == 0:
                say("nothing to learn: no negative comes within the margins")
            epochs.append({**record.as_dict(), "quality": quality})
        adapted = training.adapted(ranked_rows)
        results |= {f"after{name}": members.rank(*adapted) for name, members in sets.items()}
        if results:
            say(result_table("adapter", results))
        last = filter_pairs(training.similarity(), config.filtering)
        quality = None if is_matched is None else filter_quality(last.is_clean, last.probability, is_matched)
        if quality is not None:
            say(quality_text({"adapted, all pairs": quality}))
        for rows, target in zip(training.adapted(units), (ADAPTED_IMAGES, ADAPTED_CAPTIONS), strict=True):
            write_unit_rows(rows, folder / target)
        training.save(folder / ADAPTER)
        figures: dict[str, Any] = {
            "ranked": title,
            "results": {name: result.as_dict() for name, result in results.items()},
            "epochs": epochs,
            "adapted": {"modes": last.modes.as_dict(), "num_kept": int(last.is_clean.sum()), "quality": quality},
            "settings": asdict(config),
        }
        write_json(folder / RESULTS, figures)
