"""Pictures within a page, as data URIs, and where a data set's pictures are.

A data set has pictures if its folder holds `thumbnails.h5` (data_utils/pictures.py), or `{split}_images.txt`: one
picture a line, in the order of the features, as tools.extract writes it. Their paths are relative to the folder
given by `--pictures`, or else to the data set's folder, or to the one that `{split}_images_folder.txt` names.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from runtime.errors import InputError
from tools.pages.page import Piece, joined
from tools.picture_files import THUMBNAILS, Image, MissingPictures, Pictures, picture_files, thumbnails

QUALITY = 88
"""Of WebP."""


def index_file(folder: Path, split: str) -> Path:
    """Return where a data set's list of pictures is, or would be."""
    return folder / f"{split}_images.txt"


def picture_folders(folder: Path, split: str) -> list[Path]:
    """Return where the pictures of a split may be: with the features, or where they were when those were extracted."""
    try:
        extracted_from = (folder / f"{split}_images_folder.txt").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return [folder]
    return [folder, Path(extracted_from)]


def _listed(names: Sequence[str], roots: Sequence[Path]) -> Pictures:
    """Return the pictures of these names in the first folder that has them all; raises what `picture_files` raises."""
    for root in roots[:-1]:
        with contextlib.suppress(MissingPictures):
            return picture_files([root / name for name in names])
    return picture_files([roots[-1] / name for name in names])


def find_pictures(
    folder: Path, split: str, num_images: int, pictures: str | None, say: Callable[[str], None]
) -> Pictures | None:
    """Return the pictures of a split in the order of its features; None if the data set has none, or some are missing.

    Args:
        folder: the data set's folder.
        split: `train`, `dev`, ...
        num_images: how many first images are in use; more pictures than that are those of images left out.
        pictures: folder that the paths in `{split}_images.txt` start from (`--pictures`).
        say: told in a line that pictures are missing.

    Raises:
        InputError: fewer pictures than images, files that are missing in `pictures`, or Pillow is not installed.
    """
    index = index_file(folder, split)
    if (folder / THUMBNAILS).is_file() and pictures is None:
        found, source = thumbnails(folder / THUMBNAILS, split), folder / THUMBNAILS
    elif index.is_file():
        source = index
        try:
            lines = index.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{index} cannot be read: {error}; write one picture a line, in UTF-8") from None
        names = [line for line in lines if line.strip()]
        try:
            found = _listed(names, picture_folders(folder, split) if pictures is None else [Path(pictures)])
        except MissingPictures as error:
            if pictures is not None:
                raise
            say(f"pictures of {split} are left out: {error}; --pictures DIR names the folder that they are in")
            return None
    elif pictures is not None:
        raise InputError(f"--pictures: {index} is not there; it lists the pictures of {split}, one a line")
    else:
        return None
    if len(found) < num_images:
        raise InputError(
            f"{source} has {len(found)} pictures of {split}, the features have {num_images} images: it belongs to "
            "another data set; give one picture an image, in the order of the features, or --no_pictures"
        )
    return found


class Thumbnails:
    """Small pictures of a split for a page.

    Args:
        pictures: of the split.
        size: their longer side, in pixels, at most.
    """

    def __init__(self, pictures: Pictures, size: int = 96) -> None:
        self._pictures, self._size = pictures, size
        self._encoded: dict[int, str] = {}

    def uri(self, number: int) -> str:
        """Return picture `number` as a data URI (WebP, 1 to 3 kB)."""
        if number not in self._encoded:
            picture = Image.fromarray(self._pictures.pixels(number))
            picture.thumbnail((self._size, self._size))
            target = io.BytesIO()
            picture.save(target, format="WEBP", quality=QUALITY)
            self._encoded[number] = "data:image/webp;base64," + base64.b64encode(target.getvalue()).decode()
        return self._encoded[number]

    def image(self, number: int, alt: str) -> Markup:
        """Return picture `number` as an element; `alt` stands for it where it is not seen ("" if it adds nothing)."""
        return Markup('<img class="thumb" src="{}" alt="{}">').format(self.uri(number), alt)


def card(picture: Markup, *pieces: Piece) -> Markup:
    """Return a picture with what belongs to it beside or below it."""
    return Markup('<div class="card">{}<div>{}</div></div>').format(picture, joined(pieces))
