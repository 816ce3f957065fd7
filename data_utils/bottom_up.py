"""Region features of a bottom-up-attention TSV, read row by row.

A line is `image_id TAB image_w TAB image_h TAB num_boxes TAB boxes TAB features`; boxes and features are base64 of
little-endian float32, (num_boxes, 4) and (num_boxes, D). Boxes are not used. A first pass over the file finds where
each image's line is; features are decoded when their row is asked for.
Source: the output format of "Bottom-Up and Top-Down Attention" (Anderson et al., CVPR 2018).
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import InputError

FIELDS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
MAX_LINE = 64 * 2**20
"""No line is longer: 2,000 boxes of 2,048 dimensions are 22 MB."""


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
        return f"{path} line {self.number} (image {self.image})"


def _split(path: Path, number: int, offset: int, content: bytes) -> _Line:
    fields = content.rstrip(b"\r\n").split(b"\t")
    if len(content) >= MAX_LINE:
        raise InputError(f"{path} line {number} has no end within {MAX_LINE} bytes; it is no bottom-up-attention TSV")
    if len(fields) != len(FIELDS):
        raise InputError(
            f"{path} line {number} has {len(fields)} fields; it must have {len(FIELDS)}, tabs between them: "
            f"{', '.join(FIELDS)}"
        )
    return _Line(number, offset, fields)


def _num_boxes(path: Path, line: _Line) -> int:
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
        num_repeated: lines left aside because their image was there before.
        num_unused: images of the file that `order` does not name.

    Raises:
        InputError: not such a file, lines of different numbers of boxes, or ids that are not in it.
    """

    dtype = np.dtype(np.float32)
    block_rows = 1

    def __init__(
        self, path: Path, order: Sequence[str] | None = None, *, advance: Callable[[int], None] | None = None
    ) -> None:
        self.path = path
        places: dict[str, tuple[int, int]] = {}
        self.num_repeated = 0
        first: _Line | None = None
        offset = 0
        with open(path, "rb") as file:
            for number, content in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
                if content.strip():
                    line = _split(path, number, offset, content)
                    boxes = _num_boxes(path, line)
                    first = first or line
                    self._check_boxes(first, line, boxes)
                    self.num_repeated += line.image in places
                    places.setdefault(line.image, (number, offset))
                offset += len(content)
                if advance is not None:
                    advance(len(content))
        if first is None:
            raise InputError(f"{path} is empty; it must hold a line for each image")
        self.ids = list(places) if order is None else list(order)
        self._check_ids(places)
        self.num_unused = len(places) - len(set(self.ids))
        self._places = [places[image] for image in self.ids]
        num_regions = _num_boxes(path, first)
        self.shape = (len(self.ids), num_regions, _decode(path, first, num_regions).shape[1])

    def _check_boxes(self, first: _Line, line: _Line, boxes: int) -> None:
        expected = int(first.fields[3])
        if boxes != expected:
            raise InputError(
                f"{line.where(self.path)} has {boxes} boxes, line {first.number} has {expected}; every image must have "
                f"the same number: take the release with a fixed number (36 an image), or extract with as many boxes "
                "at least as at most (MIN_BOXES = MAX_BOXES)"
            )

    def _check_ids(self, places: dict[str, tuple[int, int]]) -> None:
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
                number, offset = self._places[row]
                file.seek(offset)
                line = _split(self.path, number, offset, file.readline(MAX_LINE))
                features = _decode(self.path, line, self.shape[1])
                if features.shape[1] != self.shape[2]:
                    raise InputError(
                        f"{line.where(self.path)} has {features.shape[1]} dimensions, the first line has "
                        f"{self.shape[2]}; extract both with the same network"
                    )
                if not np.isfinite(features).all():
                    raise InputError(
                        f"{line.where(self.path)} holds NaN or infinite features; extract that image again"
                    )
                out[place] = features
        return out


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
