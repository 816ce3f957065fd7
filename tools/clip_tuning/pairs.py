"""Pictures and their captions: read, mismatched, made ready for a model, changed at random.

Pairs come from a file of any of the shapes of `python -m tools.extract` (tools/extract/listing.py), with
images numbered in the order of their first pair and captions sorted by image, or from a data folder with
`thumbnails.h5` and `{split}_caps.txt` or `.tsv`, as for run.py, so that index files of `--noise_file` mean what they
mean there. Legend: I images, C captions, B pictures of a batch, S side of a prepared picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_utils.captions import read_caption_file
from data_utils.catalog import EMBEDDED, DataConfig, locate
from data_utils.loaders import one_ahead
from data_utils.precomputed import number_images
from runtime.errors import InputError
from runtime.flags import flag
from tools.extract.listing import captions_by_picture
from tools.picture_files import THUMBNAILS, Pictures, picture_files, thumbnails

SPLITS = ("train", "dev", "test")
KEPT_BYTES = 2**30
"""Of the prepared pictures of a split so many bytes are kept."""
ZOOM, TURN, SHIFT = 0.25, 0.25, 0.15
"""Largest zoom (of the side), turn (radians) and shift (of half the side) at strength 1."""
CONTRAST, TINT = 0.3, 0.3
"""Largest change of contrast (a factor) and of each channel (normalised units) at strength 1."""


@dataclass(frozen=True)
class PairsConfig:
    """Flags that name pictures and captions."""

    data_name: str = flag(EMBEDDED, "data folder with thumbnails.h5, read for splits without a --*_pairs file")
    data_path: str | None = flag(None, "folder that holds the data set's folder (default: data)", metavar="DIR")
    train_pairs: str | None = flag(
        None, "pairs to train on: .csv (image, caption), .tsv, .txt or .json", metavar="FILE"
    )
    dev_pairs: str | None = flag(None, "pairs that choose the epoch, likewise", metavar="FILE")
    test_pairs: str | None = flag(None, "pairs to test on, likewise", metavar="FILE")
    picture_path: str | None = flag(
        None, "folder that picture paths start from (default: the folder of their file)", metavar="DIR"
    )

    def __post_init__(self) -> None:
        DataConfig(data_name=self.data_name)
        given = [name for name in SPLITS if self.file_of(name) is not None]
        if given and "train" in given and len(given) < len(SPLITS):
            lacking = ", ".join(f"--{name}_pairs" for name in SPLITS if name not in given)
            raise InputError(f"{lacking} missing: with --train_pairs, dev and test are files of pairs too")

    def file_of(self, split: str) -> str | None:
        """Return the file of pairs of a split, if one was given."""
        return getattr(self, f"{split}_pairs", None)


@dataclass(frozen=True)
class Pairs:
    """Pictures and their captions.

    Attributes:
        name: what messages call it.
        pictures: I of them.
        captions: C.
        image_of_caption: (C,) int64, the picture each caption was written for.
    """

    name: str
    pictures: Pictures
    captions: list[str]
    image_of_caption: np.ndarray

    @property
    def num_images(self) -> int:
        return len(self.pictures)


def read_pairs(path: Path, split: str, picture_path: Path | None = None) -> Pairs:
    """Read a file of pairs.

    Args:
        path: .csv, .tsv, .txt or .json.
        split: which pairs are taken where the file tells splits.
        picture_path: folder that relative picture paths start from; None is the file's own.

    Raises:
        InputError: not a file of pairs, no pair in it, or pictures that are missing (path and count).
    """
    captions = captions_by_picture(path, split)
    pictures = picture_files([(picture_path or path.parent) / name for name in captions])
    texts = [caption for own in captions.values() for caption in own]
    return Pairs(str(path), pictures, texts, np.repeat(np.arange(len(captions)), list(map(len, captions.values()))))


def open_pairs(config: PairsConfig, split: str) -> Pairs:
    """Open a split: its file of pairs if one was given, else the data folder.

    Raises:
        InputError: anything missing, broken or not fitting together.
    """
    file = config.file_of(split)
    if file is not None:
        return read_pairs(Path(file), split, Path(config.picture_path) if config.picture_path else None)
    folder = locate(DataConfig(data_name=config.data_name, data_path=config.data_path))
    pictures = thumbnails(folder / THUMBNAILS, split)
    listed = read_caption_file(folder, split)
    each, rest = divmod(len(listed.texts), len(pictures))
    if listed.ids is not None:
        image = number_images(listed.ids)
    elif rest or not each:
        raise InputError(f"{folder}: {len(listed.texts)} captions cannot be shared evenly by {len(pictures)} pictures")
    else:
        image = np.repeat(np.arange(len(pictures)), each)
    if len(np.unique(image)) != len(pictures):
        raise InputError(
            f"{listed.path} holds {len(np.unique(image))} different image ids for {len(pictures)} pictures in "
            f"{folder / THUMBNAILS}; there must be one id a picture"
        )
    return Pairs(f"{config.data_name} {split}", pictures, listed.texts, image)


class PreparedPictures:
    """Prepared pictures by number; as many as fit `KEPT_BYTES` stay in memory.

    Args:
        pictures: I of them.
        prepare: how one is prepared: (H, W, 3) uint8 -> (3, S, S) uint8.
        side: S.
        workers: threads that decode; 0 decodes in the caller's.
    """

    def __init__(
        self, pictures: Pictures, prepare: Callable[[np.ndarray], Tensor], side: int, *, workers: int = 0
    ) -> None:
        self._one = lru_cache(max(1, KEPT_BYTES // (3 * side**2)))(lambda number: prepare(pictures.pixels(number)))
        self._pool = ThreadPoolExecutor(workers) if workers else None

    def batch(self, numbers: np.ndarray) -> Tensor:
        """Return pictures (B, 3, S, S) uint8 for numbers (B,)."""
        over = map if self._pool is None else self._pool.map
        return torch.stack(list(over(self._one, numbers.tolist())))

    def batches(self, parts: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield each part of numbers with its pictures; with workers, the next part is decoded meanwhile."""

        def with_pictures(part: np.ndarray) -> tuple[np.ndarray, Tensor]:
            return part, self.batch(part)

        return map(with_pictures, parts) if self._pool is None else one_ahead(iter(parts), with_pictures)


def augment(pictures: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Change each picture at random: shift, zoom, turn, brightness and colour, for models trained from nothing.

    Args:
        pictures: (B, 3, H, W) normalised float32.
        strength: 0 returns them as they are.
        draw: CPU generator; nine numbers a picture.

    Returns:
        (B, 3, H, W). Pixels from beyond the edge repeat the edge.
    """
    if strength == 0:
        return pictures
    unit = (2 * torch.rand(9, len(pictures), generator=draw) - 1).mul_(strength).to(pictures.device)
    zoom, stretch, angle = 1 - ZOOM * unit[0], 1 + ZOOM / 2 * unit[1], TURN * unit[2]
    across = torch.stack([zoom * stretch * angle.cos(), -zoom * angle.sin(), SHIFT * unit[3]], dim=1)
    down = torch.stack([zoom * angle.sin(), zoom / stretch * angle.cos(), SHIFT * unit[4]], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved * (1 + CONTRAST * unit[5])[:, None, None, None] + (TINT * unit[6:9]).T[:, :, None, None]
