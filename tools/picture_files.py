"""RGB pictures by number, decoded when they are asked for: thumbnails of an HDF5 file, or picture files.

The embedded set keeps its pictures in `thumbnails.h5`: for each split `bytes`, all WebP files one after another, and
`offsets` (pictures + 1,); file i is `bytes[offsets[i]:offsets[i + 1]]`. Decoding needs Pillow, an optional extra.
Legend: H x W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.arrays import dataset_of, hdf5_faults, open_hdf5
from runtime.errors import InputError
from runtime.packages import CLIP, require

try:
    from PIL import Image
except ImportError:  # an optional extra: the rest of the suite works without pictures
    Image: Any = None  # type: ignore[no-redef]

THUMBNAILS = "thumbnails.h5"
"""Name of a data set's picture file, in its folder."""

MOST_PIXELS = 2**26
"""A picture of more would take 400 MB to decode; a file of a few bytes can claim it."""


class Pictures:
    """Numbered pictures.

    Args:
        names: what each picture is called in messages.
        read: number -> bytes of the picture's file.
        paths: where the pictures' own files are, if they have some.

    Raises:
        InputError: Pillow is not installed.
    """

    def __init__(self, names: Sequence[str], read: Callable[[int], bytes], paths: Sequence[Path] | None = None) -> None:
        require(Image, "Pillow", "pictures need", CLIP)
        self._names, self._read = names, read
        self.paths = paths

    def __len__(self) -> int:
        return len(self._names)

    def name(self, number: int) -> str:
        """Return what picture `number` is called in messages."""
        return self._names[number]

    def encoded(self, number: int) -> bytes:
        """Return the content of a picture's file.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return self._read(number)
        except OSError as error:
            raise InputError(f"picture {self.name(number)} cannot be read: {error.strerror or error}") from None

    def pixels(self, number: int) -> np.ndarray:
        """Decode a picture: (H, W, 3) uint8. An alpha channel is dropped, as CLIP's processors do.

        Raises:
            InputError: it cannot be read or decoded.
        """
        try:
            picture = Image.open(io.BytesIO(self._read(number)))
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"it has {picture.width} x {picture.height} pixels, {MOST_PIXELS} are the most")
            return np.array(picture.convert("RGB"))
        except Exception as error:  # every format's decoder has its own
            reason = " ".join(str(error).split()).split(" <_io")[0]
            raise InputError(f"picture {self.name(number)} cannot be read: {reason}; replace it") from None


def picture_bytes(path: Path) -> bytes:
    """Return a picture file's content.

    Raises:
        OSError: it cannot be read, or is something else than a file: a device may have no end.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    return path.read_bytes()


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for any file
        return False


class MissingPictures(InputError):
    """Some picture files are not there."""


def picture_files(paths: Sequence[Path]) -> Pictures:
    """Return the pictures of these files.

    Raises:
        MissingPictures: some are missing: tells the first one and how many.
    """
    missing = [path for path in paths if not _is_there(path)]
    if missing:
        raise MissingPictures(f"{len(missing)} of {len(paths)} pictures are missing, the first is {missing[0]}")
    return Pictures([str(path) for path in paths], lambda number: picture_bytes(paths[number]), paths)


def _slice(content: np.ndarray, offsets: np.ndarray, number: int) -> bytes:
    return content[offsets[number] : offsets[number + 1]].tobytes()


def thumbnails(path: Path, split: str) -> Pictures:
    """Return the pictures of a split in a thumbnail file; their encoded form is read at once, 1 kB a picture.

    Raises:
        InputError: no such file, not of this layout, no such split, or offsets that do not fit the bytes.
    """
    if not path.is_file():
        raise InputError(f"no pictures: {path} is not there")
    with open_hdf5(path) as file, hdf5_faults(path):
        if split not in file:
            raise InputError(f"{path} has no pictures of split {split!r}; it has: {', '.join(file)}")
        parts = [dataset_of(file, f"{split}/{name}") for name in ("bytes", "offsets")]
        if None in parts:
            raise InputError(f"{path} is no file of thumbnails: split {split!r} has no bytes, or no offsets")
        content, offsets = map(np.asarray, parts)
    fits = content.dtype == np.uint8 and content.ndim == offsets.ndim == 1 and offsets.dtype.kind in "iu"
    if not fits or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(content) or (np.diff(offsets) <= 0).any():
        raise InputError(f"{path}: offsets of split {split!r} do not fit its {content.size} bytes; build it anew")
    names = [f"{split} {number} of {path}" for number in range(len(offsets) - 1)]
    return Pictures(names, partial(_slice, content, offsets))
