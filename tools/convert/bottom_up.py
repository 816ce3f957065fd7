"""Region features of a bottom-up-attention TSV, read row by row.

A line is `image_id TAB image_w TAB image_h TAB num_boxes TAB boxes TAB features`; boxes and features are base64 of
little-endian float32, (num_boxes, 4) and (num_boxes, D). Boxes are not used. A first pass over the file finds where
each image's lines are; features are decoded when their row is asked for. Of an image that comes again the first whole
line counts: published files hold lines that were broken off, or run together with the next, and whole ones after them.
Source: the output format of "Bottom-Up and Top-Down Attention" (Anderson et al., CVPR 2018).
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from runtime.errors import InputError
from runtime.files import kind_of_file

FIELDS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
MAX_LINE = 64 * 2**20
"""No line is longer: 2,000 boxes of 2,048 dimensions are 22 MB."""

MOST_BROKEN = 100
"""If so many images have had nothing but broken lines, the file is of another kind."""


@dataclass(frozen=True)
class _Line:
    """One line: its number from 1 on, where it starts, and its fields."""

    number: int
    offset: int
    fields: list[bytes]

    @property
    def image(self) -> str:
        return self.fields[0].decode("utf-8", "replace").strip()

    def where(self, path: Path) -> str:
        return f"{path} {self.name}"

    @property
    def name(self) -> str:
        return f"line {self.number} (image {self.image})"


def _split(path: Path, number: int, offset: int, content: bytes) -> _Line:
    fields = content.rstrip(b"\r\n").split(b"\t")
    if len(content) >= MAX_LINE:
        raise InputError(f"{path} line {number} has no end within {MAX_LINE} bytes; it is no bottom-up-attention TSV")
    return _Line(number, offset, fields)


def _check_fields(path: Path, line: _Line) -> None:
    if len(line.fields) != len(FIELDS):
        raise InputError(
            f"{path} line {line.number} has {len(line.fields)} fields; it must have {len(FIELDS)}, tabs between them: "
            f"{', '.join(FIELDS)}"
        )


def _num_boxes(path: Path, line: _Line) -> int:
    _check_fields(path, line)
    try:
        number = int(line.fields[3])
    except ValueError:
        number = 0
    if number < 1:
        shown = line.fields[3][:40].decode("utf-8", "replace")
        raise InputError(f"{line.where(path)}: num_boxes is {shown!r}; it must be a whole number from 1 on")
    return number


def _decode(path: Path, line: _Line, num_boxes: int) -> np.ndarray:
    """Return a line's features (num_boxes, D) float32."""
    _check_fields(path, line)
    text = line.fields[5].strip()
    if text[:2] == b"b'" and text[-1:] == b"'":  # Python 3 writers that forgot to decode leave this around it
        text = text[2:-1]
    try:
        content = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise InputError(
            f"{line.where(path)}: its features are not base64 ({error}); extract that image again"
        ) from None
    if not content or len(content) % (4 * num_boxes):
        raise InputError(
            f"{line.where(path)}: its features are {len(content)} bytes, no whole number of float32 dimensions for "
            f"{num_boxes} boxes; extract that image again"
        )
    return np.frombuffer(content, dtype="<f4").reshape(num_boxes, -1)


class BottomUpFile:
    """Rows of a TSV in file order, or in the order of given ids.

    Args:
        path: the file.
        order: image ids; row k is the image `order[k]`. None: file order.
        advance: told of every line how many bytes of the first pass are done by it.

    Attributes:
        path: the file.
        shape: (rows, R, D).
        dtype: type of the stored numbers.
        block_rows: 1: rows are stored one by one.
        ids: image id of each row.
        broken: names of the lines left aside because they cannot be read.
        num_repeated: lines left aside because their image was there before.
        num_unused: images of the file that `order` does not name.

    Raises:
        InputError: not such a file, lines of different numbers of boxes, an image without a whole line, or ids that
            are not in it.
    """

    dtype = np.dtype(np.float32)
    block_rows = 1

    def __init__(
        self, path: Path, order: Sequence[str] | None = None, *, advance: Callable[[int], None] | None = None
    ) -> None:
        self.path = path
        if kind := kind_of_file(path):
            raise InputError(f"{path} {kind}")
        places: dict[str, list[tuple[int, int]]] = {}
        faults: dict[str, InputError] = {}
        self.broken: list[str] = []
        first: _Line | None = None
        offset = 0
        with open(path, "rb") as file:
            for number, content in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
                if content.strip():
                    line = _split(path, number, offset, content)
                    try:
                        boxes = _num_boxes(path, line)
                    except InputError as error:  # a whole line of the image may follow
                        self.broken.append(line.name)
                        faults.setdefault(line.image, error)
                        if len(faults.keys() - places.keys()) > MOST_BROKEN:
                            raise next(iter(faults.values())) from None
                    else:
                        first = first or line
                        self._check_boxes(first, line, boxes)
                        places.setdefault(line.image, []).append((number, offset))
                offset += len(content)
                if advance is not None:
                    advance(len(content))
        wanted = set(places | faults if order is None else order)
        for image, fault in faults.items():
            if image not in places and (image in wanted or not places):
                raise fault
        if first is None:
            raise InputError(f"{path} is empty; it must hold a line for each image")
        self.ids = list(places) if order is None else list(order)
        self._check_ids(places)
        self.num_unused = len(places) - len(wanted)
        num_regions = _num_boxes(path, first)
        self.shape = (len(self.ids), num_regions, self._num_dimensions(places[self.ids[0]], num_regions))
        self.num_repeated = sum(len(lines) - 1 for lines in places.values())
        chosen = {image: self._first_whole(places[image]) for image in dict.fromkeys(self.ids)}
        self._places = [chosen[image] for image in self.ids]

    def _check_boxes(self, first: _Line, line: _Line, boxes: int) -> None:
        expected = int(first.fields[3])
        if boxes != expected:
            raise InputError(
                f"{line.where(self.path)} has {boxes} boxes, line {first.number} has {expected}; every image must have "
                f"the same number: take the release with a fixed number (36 an image), or extract with as many boxes "
                "at least as at most (MIN_BOXES = MAX_BOXES)"
            )

    def _num_dimensions(self, lines: list[tuple[int, int]], num_regions: int) -> int:
        """Return D: the most that a line of the first image has, for a broken one has fewer."""
        found, faults = [], []
        with open(self.path, "rb") as file:
            for number, offset in lines:
                try:
                    found.append(_decode(self.path, self._line(file, number, offset), num_regions).shape[1])
                except InputError as error:
                    faults.append(error)
        if not found:
            raise faults[0]
        return max(found)

    def _first_whole(self, lines: list[tuple[int, int]]) -> tuple[int, int]:
        """Return the first of an image's lines that can be read; of a single one, and if none can, `read` will tell."""
        broken = []
        if len(lines) > 1:
            with open(self.path, "rb") as file:
                for number, offset in lines:
                    line = self._line(file, number, offset)
                    try:
                        self._features(line)
                    except InputError:
                        broken.append(line.name)
                    else:
                        self.broken += broken
                        self.num_repeated -= len(broken)
                        return number, offset
        return lines[0]

    def _check_ids(self, places: dict[str, list[tuple[int, int]]]) -> None:
        missing = [image for image in self.ids if image not in places]
        if missing or not self.ids:
            raise InputError(
                f"{len(missing)} of {len(self.ids)} ids of --ids are not in {self.path}, the first is "
                f"{missing[0] if missing else None!r}; its own ids look like {next(iter(places))!r}"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of `rows` (n,) as (n, R, D) float32.

        Raises:
            InputError: a line's features cannot be decoded or are not finite; names the line and its image.
        """
        out = np.empty((len(rows), *self.shape[1:]), dtype=np.float32)
        with open(self.path, "rb") as file:
            for place, row in enumerate(rows.tolist()):
                out[place] = self._features(self._line(file, *self._places[row]))
        return out

    def _line(self, file: BinaryIO, number: int, offset: int) -> _Line:
        file.seek(offset)
        return _split(self.path, number, offset, file.readline(MAX_LINE))

    def _features(self, line: _Line) -> np.ndarray:
        """Return a line's features (R, D), all finite."""
        features = _decode(self.path, line, self.shape[1])
        if features.shape[1] != self.shape[2]:
            raise InputError(
                f"{line.where(self.path)} has {features.shape[1]} dimensions, the first image has {self.shape[2]}; "
                "extract both with the same network"
            )
        if not np.isfinite(features).all():
            raise InputError(f"{line.where(self.path)} holds NaN or infinite features; extract that image again")
        return features


def read_ids(path: Path) -> list[str]:
    """Read an id file, one image id a line; ids that follow each other repeated (one a caption) count once.

    Raises:
        InputError: it cannot be read, or holds no id.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--ids {path} cannot be read: {error}") from None
    ids = [line.strip() for line in lines]
    while ids and not ids[-1]:
        ids.pop()
    if not all(ids) or not ids:
        where = f"line {ids.index('') + 1} is" if ids else "it is"
        raise InputError(f"--ids {path}: {where} empty; it must hold one image id a line")
    return [image for k, image in enumerate(ids) if k == 0 or image != ids[k - 1]]
