"""The adapter's run from two embedding files to its results: hold out, rank, train, rank again, write.

Held-out pairs are as noisy as all others and are ranked as they are given; where the truth is known, once more by their
matched captions only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import result_table
from methods.blocks.dynamic_margin import MarginConfig
from models.ranks import Retrieval
from runtime.checkpoint import write_json
from runtime.device import choose_device
from runtime.errors import InputError
from tools.filter.adapter import AdapterConfig, AdapterTraining
from tools.filter.filtering import FilterConfig, filter_pairs, filter_quality
from tools.filter.pairs import EmbeddingPairs
from tools.filter.ranking import RankedSet, RankingConfig, TakenRows, write_unit_rows
from tools.filter.report import epoch_text, quality_text

ADAPTER, ADAPTED_IMAGES, ADAPTED_CAPTIONS = "adapter.pt", "adapted_images.npy", "adapted_captions.npy"
RESULTS = "results.json"


@dataclass(frozen=True)
class AdaptingConfig:
    """All flags of the adapter's run."""

    adapter: AdapterConfig
    ranking: RankingConfig
    filtering: FilterConfig
    margins: MarginConfig


@dataclass(frozen=True)
class _Ranked:
    """What is ranked, by name, among which rows; and which pairs must not be trained on.

    Attributes:
        sets: name -> images and captions.
        rows: image and caption rows of length 1 that the sets' numbers are of.
        is_held_out: (pairs,) bool.
        title: what they are, for people.
    """

    sets: dict[str, RankedSet]
    rows: tuple[np.ndarray, np.ndarray]
    is_held_out: np.ndarray
    title: str

    def rank(self, images: TakenRows, captions: TakenRows, when: str) -> dict[str, Retrieval]:
        """Rank every set."""
        return {f"{when}{name}": members.rank(images, captions) for name, members in self.sets.items()}


def _write_units(pairs: EmbeddingPairs, folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    return (
        write_unit_rows(pairs.images, folder / f"{name}_images.npy"),
        write_unit_rows(pairs.captions, folder / f"{name}_captions.npy"),
    )


def _choose_ranked(
    pairs: EmbeddingPairs,
    test: EmbeddingPairs | None,
    units: tuple[np.ndarray, np.ndarray],
    is_matched: np.ndarray | None,
    config: AdaptingConfig,
    scratch: Path,
) -> _Ranked:
    """Return what is ranked: the test files, or held-out pairs, or nothing."""
    none = np.zeros(len(pairs), dtype=bool)
    if test is not None:
        members = RankedSet.whole(test.image_of_caption, len(test.images))
        return _Ranked({"": members}, _write_units(test, scratch, "test"), none, f"test: {test.describe()}")
    if not config.ranking.holdout:
        return _Ranked({}, units, none, "nothing is held out and ranked (--holdout 0)")
    members = RankedSet.held_out(pairs.image_of_caption, len(pairs.images), config.ranking, config.filtering.seed)
    is_held_out = none
    is_held_out[members.captions] = True
    sets = {"": members}
    if is_matched is not None and is_matched[members.captions].any():
        sets[", matched only"] = members.of(is_matched)
    title = f"held out: {len(members.images)} images, {len(members.captions)} captions; mismatched ones are ranked too"
    return _Ranked(sets, units, is_held_out, title)


def open_test(pairs: EmbeddingPairs, config: RankingConfig) -> EmbeddingPairs | None:
    """Open the test files, if there are any.

    Raises:
        InputError: they cannot be read, do not fit together or are of another width than the training files.
    """
    if config.test_images is None or config.test_captions is None:
        return None
    test = EmbeddingPairs.open(config.test_images, config.test_captions, pairs.captions_per_image)
    width, expected = test.images.shape[1], pairs.images.shape[1]
    if width != expected:
        raise InputError(f"{test.images.name} has {width} dimensions, {pairs.images.name} has {expected}")
    RankedSet.whole(test.image_of_caption, len(test.images))  # refuses what is too much to rank
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
        units = _write_units(pairs, Path(name), "given")
        ranked = _choose_ranked(pairs, test, units, is_matched, config, Path(name))
        say(ranked.title)
        results = ranked.rank(*ranked.rows, "before")
        training = AdapterTraining(
            *units,
            pairs.image_of_caption,
            ~ranked.is_held_out,
            config=config.adapter,
            filtering=config.filtering,
            margins=config.margins,
            device=device,
        )
        epochs: list[dict[str, Any]] = []
        told = ""
        for record in training.epochs():
            found = record.found
            quality = None
            if is_matched is not None:
                quality = filter_quality(found.is_clean, found.probability, is_matched[training.pairs])
            say(epoch_text(record, config.adapter.num_epochs, quality))
            if found.modes.note not in ("", told):
                told = found.modes.note
                say(f"warning: {told}")
            if record.loss == 0:
                say("nothing to learn: no negative comes within the margins")
            epochs.append({**record.as_dict(), "quality": quality})
        results |= ranked.rank(*training.adapted(ranked.rows), "after")
        if results:
            say(result_table("adapter", results))
        last = filter_pairs(training.similarity(), config.filtering)
        quality = None if is_matched is None else filter_quality(last.is_clean, last.probability, is_matched)
        if quality is not None:
            say(quality_text({"adapted, all pairs": quality}))
        for rows, target in zip(training.adapted(units), (ADAPTED_IMAGES, ADAPTED_CAPTIONS), strict=True):
            write_unit_rows(rows, folder / target)
        training.save(folder / ADAPTER)
        record_of_all = {
            "ranked": ranked.title,
            "results": {name: result.as_dict() for name, result in results.items()},
            "epochs": epochs,
            "adapted": {"modes": last.modes.as_dict(), "num_kept": int(last.is_clean.sum()), "quality": quality},
            "settings": asdict(config),
        }
        write_json(folder / RESULTS, record_of_all)
