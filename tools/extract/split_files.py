"""The files of a split in the suite's layout: `{split}_ims`, `{split}_caps.txt`, `{split}_images.txt`.

The last one names the pictures as the captions did, and `{split}_images_folder.txt` the folder that they are in.
Features are filled in as `{split}_ims.h5.part` (or npy) and get their name last, when all three are whole.
Legend: N pictures, R regions, D channels.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.files import write_atomically
from tools.convert.conversion import WRITERS, narrowed
from tools.extract.listing import Listing


class SplitFiles:
    """Where a split goes.

    Args:
        folder: the data set's folder.
        split: `train`, `dev`, ...
        kind: suffix of the features: .h5 or .npy.
        dtype: type of the numbers, float32 or float16.
        images: the folder that the pictures' names start from; None writes none down.

    Raises:
        InputError: the split is there already.
    """

    def __init__(self, folder: Path, split: str, kind: str, dtype: np.dtype, images: Path | None = None) -> None:
        self.folder, self.dtype, self.images = folder, dtype, images
        self.features = folder / f"{split}_ims{kind}"
        self.captions, self.pictures = folder / f"{split}_caps.txt", folder / f"{split}_images.txt"
        self.images_folder = folder / f"{split}_images_folder.txt"
        others = [folder / f"{split}_ims{other}" for other in WRITERS] + [folder / f"{split}_caps.tsv"]
        for path in (*others, self.captions, self.pictures, self.images_folder):
            if path.exists():
                raise InputError(f"--output: {path} exists; nothing is written over: delete it or name another folder")

    def write(self, listing: Listing, shape: tuple[int, int, int], blocks: Iterable[np.ndarray]) -> None:
        """Write all files, or none.

        Args:
            listing: the N pictures and their captions.
            shape: (N, R, D).
            blocks: features (n, R, D) float32 of the pictures in order.

        Raises:
            InputError: the folder cannot be written, or a number is not finite or too large for the type.
        """
        part = self.features.with_name(self.features.name + ".part")
        made = _missing_folders(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            needed, free = int(np.prod(shape)) * self.dtype.itemsize, shutil.disk_usage(self.folder).free
            if needed > free:
                raise InputError(
                    f"{self.features} takes {needed} bytes, the disk has {free} left; free some, or --dtype"
                )
            writer = WRITERS[self.features.suffix](part, shape, self.dtype, is_new=True)
            with contextlib.closing(writer):
                done = 0
                for block in blocks:
                    writer.write(done, self._checked(block, done, listing))
                    done += len(block)
                assert done == shape[0]
                writer.sync()
            captions = [caption for own in listing.captions for caption in own]
            write_atomically(self.captions, ("\n".join(captions) + "\n").encode())
            write_atomically(self.pictures, ("\n".join(listing.pictures) + "\n").encode())
            if self.images is not None:
                write_atomically(self.images_folder, f"{self.images.resolve()}\n".encode())
            os.replace(part, self.features)
        except OSError as error:
            self._leave_nothing(part, made)
            raise InputError(f"--output {self.folder} cannot be written: {error.strerror or error}") from None
        except BaseException:  # an interruption too
            self._leave_nothing(part, made)
            raise

    def _checked(self, block: np.ndarray, start: int, listing: Listing) -> np.ndarray:
        is_finite = np.isfinite(block).all(axis=(1, 2))
        if not is_finite.all():
            name = listing.pictures[start + int((~is_finite).argmax())]
            raise InputError(f"the features of {name} are not finite; the backbone cannot be used on it")
        return narrowed(block, self.dtype, self.pictures, start)

    def _leave_nothing(self, part: Path, made: list[Path]) -> None:
        for path in (part, self.captions, self.pictures, self.images_folder):
            with contextlib.suppress(OSError):
                path.unlink()
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _missing_folders(folder: Path) -> list[Path]:
    """Return the folders that will have to be made, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]
