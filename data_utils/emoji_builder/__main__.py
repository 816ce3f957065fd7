"""Command that builds the emoji set: `python -m data_utils.emoji_builder --output data/emoji_precomp`."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_utils.emoji_builder import captions, documents, pictures, regions, splits, storing
from data_utils.emoji_builder.concepts import load_concepts
from data_utils.emoji_builder.sources import ARTISTS, NAMES, fetch
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace, require


def compute_cells(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Compute the feature maps of all pictures into a file in the work folder, or take them from there.

    Args:
        pixels: Pictures, uint8 of shape (pictures, height, width, 3).
        path: The file; remove it after changing the pictures.

    Returns:
        Memory-mapped float32 of shape (pictures, cells, channels).
    """
    shape = (len(pixels), regions.CELLS, regions.CHANNELS)
    if not path.exists():
        part = path.with_suffix(".part")
        cells = np.lib.format.open_memmap(part, "w+", np.float32, shape)
        done = 0
        for maps in regions.feature_maps(pixels):
            cells[done : done + len(maps)] = maps
            done += len(maps)
            if done % 800 < len(maps):
                print(f"feature maps: {done} of {len(pixels)} pictures", flush=True)
        cells.flush()
        part.rename(path)
    cells = np.load(path, mmap_mode="r")
    if cells.shape != shape:
        raise ValueError(f"{path} is of other pictures: shape {cells.shape}, not {shape}; remove it")
    return cells


def agreement(features: np.ndarray, concepts: np.ndarray) -> float:
    """Measure how often the nearest other picture, by mean feature, shows the same concept.

    Args:
        features: Shape (pictures, cells, dims).
        concepts: Concept of each picture, shape (pictures,).

    Returns:
        The share.
    """
    mean = features.mean(axis=1)
    mean = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    likeness = mean @ mean.T
    np.fill_diagonal(likeness, -np.inf)
    return float((concepts[likeness.argmax(axis=1)] == concepts).mean())


def build(output: Path, work: Path, dims: int, step: float) -> None:
    """Build the set.

    Args:
        output: Folder for the finished files.
        work: Folder for packages and feature maps.
        dims: Dimensions of a region.
        step: Common step of the 8-bit storage.
    """
    output.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    concepts = load_concepts(fetch(NAMES, work))
    sets = [pictures.IconSet(artist, fetch(source, work)) for artist, source in ARTISTS.items()]
    found = pictures.find_pictures(concepts, sets)
    print(f"{len(found)} pictures of {len(concepts)} concepts", flush=True)

    pixels = np.stack([pictures.render(picture) for picture in found])
    grey = pictures.grey_thumbnails(pixels)
    chosen = splits.make_splits(found, concepts, grey)
    artists = list(ARTISTS)
    pools = captions.caption_pools(concepts)
    records = {}
    for split, rows in chosen.items():
        shown = [(concepts[found[i].concept], pools[found[i].concept], found[i].artist) for i in rows]
        texts = [captions.captions_of(c, pool, artists.index(artist)) for c, pool, artist in shown]
        storing.write_captions(output / f"{split}_caps.txt", texts)
        records[split] = [
            {"concept": c.code, "label": captions.plain(c.label), "artist": artist, "group": c.group}
            for c, _, artist in shown
        ]
    storing.write_pictures(output / "pictures.json", records)
    storing.write_thumbnails(output / "thumbnails.h5", chosen, pixels, grey)

    cells = compute_cells(pixels, work / "cells.npy")
    projection = regions.fit_projection(cells, np.array(chosen["train"]), dims)
    figures = {"concepts": len(concepts), "dims": dims, "kept": projection.kept}
    scales: np.ndarray | None = None
    for split, rows in chosen.items():  # train comes first: it sets the scales
        features = projection(cells[rows])
        if scales is None:
            scales = regions.choose_scales(features, step)
            nearest = agreement(features, np.array([found[i].concept for i in rows]))
            print(f"nearest other training picture shows the same concept: {nearest:.1%}")
        stored = regions.quantise(features, scales)
        figures[f"snr_{split}"] = regions.signal_to_noise(features, stored, scales)
        storing.write_features(output / f"{split}_ims.h5", stored, scales)
    print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))

    shares = {a: [sum(r["artist"] == a for r in records[split]) for split in chosen] for a in artists}
    counts = {split: len(rows) for split, rows in chosen.items()}
    (output / "LICENSES").write_text(documents.licences_text(), encoding="utf-8")
    (output / "README.md").write_text(documents.readme_text(counts, shares, figures), encoding="utf-8")
    size = sum(path.stat().st_size for path in output.iterdir() if path.is_file())
    print(f"{counts}, {size / 2**20:.1f} MiB in {output}")


@dataclass(frozen=True)
class BuilderConfig:
    """Flags of the builder."""

    output: str | None = flag(None, "folder for the finished files (required)")
    work: str | None = flag(
        None, "folder for packages and feature maps, kept for the next time (default: a temporary one)"
    )
    dims: int = flag(128, "dimensions of a region")
    step: float = flag(0.1, "step of the 8-bit storage")

    def __post_init__(self) -> None:
        require(self, "output", "name the folder for the finished files")
        check_range(self, "dims", low=1, high=regions.CHANNELS)
        check_range(self, "step", low=1e-6)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and build the set."""
    parser = OneLineParser(prog="python -m data_utils.emoji_builder", description="Build the embedded emoji set.")
    add_flags(parser, "builder", BuilderConfig)
    config = from_namespace(BuilderConfig, parser.parse_args(argv))
    assert config.output is not None
    with tempfile.TemporaryDirectory() as temporary:
        try:
            build(Path(config.output), Path(config.work or temporary), config.dims, config.step)
        except ValueError as error:
            raise InputError(str(error)) from None


if __name__ == "__main__":
    main()
