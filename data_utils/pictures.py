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

import h5py
import numpy as np

from runtime.errors import InputError

try:
    from PIL import Image
except ImportError:  # an optional extra: the rest of the suite works without pictures
    Image: Any = None  # type: ignore[no-redef]

INSTALL = "python -m pip install -r requirements-clip.txt"
"""What makes the optional extra work."""

THUMBNAILS = "thumbnails.h5"
"""Name of a data set's picture file, in its folder."""


class Pictures:
    """Numbered pictures.

    Args:
        names: what each picture is called in messages.
        read: number -> bytes of the picture's file.

    Raises:
        InputError: Pillow is not installed.
    """

    def __init__(self, names: Sequence[str], read: Callable[[int], bytes]) -> None:
        if Image is None:
            raise InputError(f"pictures need Pillow, which is not installed; run: {INSTALL}")
        self._names, self._read = names, read

    def __len__(self) -> int:
        return len(self._names)

    def name(self, number: int) -> str:
        """Return what picture `number` is called in messages."""
        return self._names[number]

    def pixels(self, number: int) -> np.ndarray:
        """Decode a picture: (H, W, 3) uint8. An alpha channel is dropped, as CLIP's processors do.

        Raises:
            InputError: it cannot be read or decoded.
        """
        try:
            return np.array(Image.open(io.BytesIO(self._read(number))).convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split()).split(" <_io")[0]
            raise InputError(f"picture {self.name(number)} cannot be read: {reason}; replace it") from None


def picture_files(paths: Sequence[Path]) -> Pictures:
    """Return the pictures of these files.

    Raises:
        InputError: some are missing: tells the first one and how many.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(paths)} pictures are missing, the first is {missing[0]}")
    return Pictures([str(path) for path in paths], lambda number: paths[number].read_bytes())


def _slice(content: np.ndarray, offsets: np.ndarray, number: int) -> bytes:
    return content[offsets[number] : offsets[number + 1]].tobytes()


def thumbnails(path: Path, split: str) -> Pictures:
    """Return the pictures of a split in a thumbnail file; their encoded form is read at once, 1 kB a picture.

    Raises:
        InputError: no such file, not of this layout, no such split, or offsets that do not fit the bytes.
    """
    if not path.is_file():
        raise InputError(f"no pictures: {path} is not there")
    try:
        with h5py.File(path) as file:
            if split not in file:
                raise InputError(f"{path} has no pictures of split {split!r}; it has: {', '.join(file)}")
            content, offsets = np.asarray(file[split]["bytes"]), np.asarray(file[split]["offsets"])
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no file of thumbnails ({' '.join(str(error).split())})") from None
    fits = content.dtype == np.uint8 and content.ndim == offsets.ndim == 1 and offsets.dtype.kind in "iu"
    if not fits or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(content) or (np.diff(offsets) <= 0).any():
        raise InputError(f"{path}: offsets of split {split!r} do not fit its {len(content)} bytes; build it anew")
    names = [f"{split} {number} of {path}" for number in range(len(offsets) - 1)]
    return Pictures(names, partial(_slice, content, offsets))
