"""From pictures, splits and captions to the files of a set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_utils.set_builder import regions, storing
from data_utils.set_builder.cells import compute_cells
from data_utils.set_builder.drawings import Drawing, grey_thumbnails

Record = dict[str, str]
"""What a row shows: concept, label, artist, group."""


@dataclass(frozen=True)
class PictureSet:
    """A set before its features are computed.

    Attributes:
        drawings: All drawings.
        pixels: Their pictures, uint8 of shape (drawings, 192, 192, 3), may be a memory map.
        splits: Indices of the drawings of "train", "dev" and "test", in row order.
        captions: For each split the captions of each row.
        records: For each split what each row shows.
    """

    drawings: Sequence[Drawing]
    pixels: np.ndarray
    splits: Mapping[str, list[int]]
    captions: Mapping[str, list[list[str]]]
    records: Mapping[str, list[Record]]

    def counts(self) -> dict[str, int]:
        """Count the pictures of each split."""
        return {split: len(rows) for split, rows in self.splits.items()}

    def shares(self, artists: Sequence[str]) -> dict[str, list[int]]:
        """Count each artist's pictures in each split."""
        return {a: [sum(r["artist"] == a for r in self.records[split]) for split in self.splits] for a in artists}


def write_set(
    output: Path,
    work: Path,
    pictures: PictureSet,
    documents: Callable[[dict[str, float]], Mapping[str, str]],
    *,
    dims: int,
    step: float,
) -> None:
    """Compute the features and write all files; each gets its name when all of them are whole.

    Args:
        output: Folder for the finished files.
        work: Folder for the feature maps.
        pictures: The set.
        documents: Gets "dims", "kept" (share of variance) and "snr_train", "snr_dev", "snr_test" (signal-to-noise
            ratios), returns texts by file name.
        dims: Dimensions of a region.
        step: Common step of the 8-bit storage.
    """
    part = output / ".part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for split, captions in pictures.captions.items():
        storing.write_captions(part / f"{split}_caps.txt", captions)
    storing.write_pictures(part / "pictures.json", pictures.records)
    storing.write_thumbnails(part / "thumbnails.h5", pictures.splits, pictures.pixels, grey_thumbnails(pictures.pixels))
    figures = _write_features(part, compute_cells(pictures.pixels, work), pictures, dims, step)
    print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    for name, text in documents(figures).items():
        (part / name).write_text(text, encoding="utf-8", newline="\n")
    size = sum(path.stat().st_size for path in part.iterdir())
    for path in sorted(part.iterdir()):
        os.replace(path, output / path.name)
    part.rmdir()
    print(f"{pictures.counts()}, {size / 2**20:.1f} MiB in {output}")


def _write_features(folder: Path, cells: np.ndarray, pictures: PictureSet, dims: int, step: float) -> dict[str, float]:
    """Write the region features of all splits; return the figures that describe them."""
    projection = regions.fit_projection(cells, np.array(pictures.splits["train"]), dims)
    figures = {"dims": float(dims), "kept": projection.kept}
    scales: np.ndarray | None = None
    for split, rows in pictures.splits.items():  # train comes first: it sets the scales
        features = regions.project(projection, cells, np.array(rows))
        if scales is None:
            scales = regions.choose_scales(features, step)
            nearest = regions.agreement(features, np.array([pictures.drawings[i].concept for i in rows]))
            print(f"nearest other training picture shows the same concept: {nearest:.1%}")
        stored = regions.quantise(features, scales)
        figures[f"snr_{split}"] = regions.signal_to_noise(features, stored, scales)
        storing.write_features(folder / f"{split}_ims.h5", stored, scales)
    return figures
