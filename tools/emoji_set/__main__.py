"""Build the emoji set: its files are written beside each other and get their names when all of them are whole.

README.md and LICENSES of the set are written by hand.

python -m tools.emoji_set --output rebuilt/emoji_precomp
"""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from runtime.errors import InputError, exit_on_input_error
from runtime.flags import check_range, flag, require
from runtime.packages import require as require_package
from tools.command import parsed
from tools.emoji_set import features, names, pictures
from tools.emoji_set.names import ARTISTS, NAMES, fetch
from tools.emoji_set.pictures import Picture, SplitRule, make_splits, near_pairs
from tools.extract.backbones import CHANNELS

RULE = SplitRule(dev=500, test=1000, seed="emoji-precomp-1")
NEAR = 8
"""Grey levels: mean absolute difference of 16 x 16 grey images below which two pictures are twins."""
THUMBNAIL, QUALITY = 72, 70
"""Pixels of a thumbnail's side, and how well WebP keeps it."""
CHUNK = (64, 36, 8)  # neighbouring principal axes vary alike, so gzip does better on a few of them at a time
GZIP = {"compression": "gzip", "compression_opts": 9}

Splits = Mapping[str, list[int]]
"""For "train", "dev" and "test" the indices of their pictures, in row order."""
Records = dict[str, list[dict[str, str]]]
"""For each split what each row shows: concept, label, artist, group."""


@dataclass(frozen=True)
class BuilderConfig:
    """Flags of the builder."""

    output: str | None = flag(None, "folder for the finished files (required)", metavar="DIR")
    work: str | None = flag(
        None, "folder for packages and feature maps, kept for the next time (default: a temporary one)", metavar="DIR"
    )
    dims: int = flag(128, "dimensions of a region")
    step: float = flag(0.1, "step of the 8-bit storage")

    def __post_init__(self) -> None:
        require(self, "output", "name the folder for the finished files")
        check_range(self, "dims", low=1, high=CHANNELS)
        check_range(self, "step", low=1e-6)


def write_records(path: Path, records: Records) -> None:
    """Write what each row shows and who drew it, a line a picture."""
    parts = []
    for split, rows in records.items():
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        parts.append(f"{json.dumps(split)}:[\n{lines}\n]")
    path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8", newline="\n")


def webp(pixels: np.ndarray) -> bytes:
    """Shrink a picture, uint8 (height, width, 3), and encode it as WebP."""
    small = Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def write_thumbnails(path: Path, splits: Splits, pixels: np.ndarray, grey: np.ndarray) -> None:
    """Write the thumbnails and grey images of all splits into one HDF5 file.

    Args:
        path: The file.
        splits: Which pictures.
        pixels: All pictures, uint8 of shape (pictures, height, width, 3).
        grey: All grey images, uint8 of shape (pictures, 16, 16).
    """
    with h5py.File(path, "w", track_order=False) as file:
        for split, rows in splits.items():
            files = [webp(pixels[i]) for i in rows]
            group = file.create_group(split)
            group.create_dataset("bytes", data=np.frombuffer(b"".join(files), np.uint8))
            offsets = np.cumsum([0, *map(len, files)], dtype=np.int64)
            group.create_dataset("offsets", data=offsets, shuffle=True, **GZIP)
            group.create_dataset("grey16", data=grey[rows], chunks=True, **GZIP)


def write_features(folder: Path, cells: np.ndarray, splits: Splits, config: BuilderConfig) -> dict[str, float]:
    """Write the region features of all splits, and return the figures that describe them.

    Args:
        folder: Where to.
        cells: Feature maps of all pictures, float32 of shape (pictures, CELLS, CHANNELS).
        splits: Which pictures.
        config: The flags.

    Returns:
        "dims", "kept" (share of variance) and "snr_train", "snr_dev", "snr_test" (signal-to-noise ratios in decibels).
    """
    projection = features.fit_projection(cells, np.array(splits["train"]), config.dims)
    figures = {"dims": float(config.dims), "kept": projection.kept}
    scales: np.ndarray | None = None
    for split, rows in splits.items():  # train comes first: it sets the scales
        exact = projection(cells, np.array(rows))
        if scales is None:
            scales = features.choose_scales(exact, config.step)
        stored, figures[f"snr_{split}"] = features.quantise(exact, scales)
        with h5py.File(folder / f"{split}_ims.h5", "w", track_order=False) as file:
            chunks = tuple(min(a, b) for a, b in zip(CHUNK, stored.shape, strict=True))
            file.create_dataset("features", data=stored, chunks=chunks, **GZIP)
            file.create_dataset("scales", data=scales)
    return figures


def build(output: Path, work: Path, config: BuilderConfig) -> None:
    """Build the set in `output`, with packages and feature maps in `work`."""
    concepts = names.load_concepts(fetch(NAMES, work))
    sets = [pictures.IconSet(artist, fetch(source, work)) for artist, source in ARTISTS.items()]
    found = pictures.find_pictures(concepts, sets)
    print(f"{len(found)} pictures of {len(concepts)} concepts", flush=True)

    pixels = np.stack([pictures.render(picture) for picture in found])
    grey = pictures.grey_thumbnails(pixels)
    splits = make_splits(found, [concept.code for concept in concepts], near_pairs(grey, NEAR), RULE)
    pools, artists = names.caption_pools(concepts), list(ARTISTS)

    def captions(picture: Picture) -> list[str]:
        turn = artists.index(picture.artist)
        return names.captions_of(concepts[picture.concept], pools[picture.concept], turn)

    def record(picture: Picture) -> dict[str, str]:
        shown = concepts[picture.concept]
        label = names.plain(shown.label)
        return {"concept": shown.code, "label": label, "artist": picture.artist, "group": shown.group}

    records = {split: [record(found[i]) for i in rows] for split, rows in splits.items()}
    part = output / ".part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    texts = {f"{split}_caps.txt": [c for i in rows for c in captions(found[i])] for split, rows in splits.items()}
    write_records(part / "pictures.json", records)
    write_thumbnails(part / "thumbnails.h5", splits, pixels, grey)
    figures = write_features(part, features.compute_cells(pixels, work), splits, config)
    print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    for name, lines in texts.items():
        (part / name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    size = sum(path.stat().st_size for path in part.iterdir())
    for path in sorted(part.iterdir()):
        os.replace(path, output / path.name)
    part.rmdir()
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in splits.items())
    print(f"{counts} pictures, {size / 2**20:.1f} MiB in {output}")


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and build the set, with a work folder that is kept or a temporary one."""
    (config,) = parsed("tools.emoji_set", "Build the embedded emoji set.", argv, {"builder": BuilderConfig})
    assert config.output is not None
    require_package(pictures.resvg_py, "resvg_py", "pictures need", "tools/emoji_set/requirements.txt")
    with tempfile.TemporaryDirectory() as temporary:
        output, work = Path(config.output), Path(config.work or temporary)
        for name, folder in (("output", output), ("work", work)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"--{name} {folder} cannot be made: {error.strerror or error}") from None
        try:
            build(output, work, config)
        except ValueError as error:
            raise InputError(str(error)) from None
        except OSError as error:
            raise InputError(f"--output {output} or --work {work} cannot be written: {error}") from None


if __name__ == "__main__":
    main()
