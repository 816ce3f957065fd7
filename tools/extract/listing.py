"""Pictures and their captions from a file, in the shapes that such files come in.

- JSON: {picture: caption or captions}; [{"image": picture, "caption": caption or captions}, ...];
  {"image": [...], "caption": [...]}; Karpathy's {"images": [{"filename", "split", "sentences": [{"raw"}]}]}; COCO's
  {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]};
- CSV and TSV: with a line of column names (a picture, one or several captions, perhaps a split), or picture and
  captions from the left; separated by `|` too, as Flickr30K's results.csv is;
- txt: `picture TAB caption` or `picture#0 TAB caption`, or one caption a line beside NAME_images.txt with the pictures.
Where a file tells splits, `--split` chooses; `restval` goes with train, `val` is dev.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from runtime.errors import InputError
from runtime.files import kind_of_file, parse_json


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, less a byte-order mark.

    Raises:
        InputError: it cannot be read, is of another kind, or is not UTF-8.
    """
    if kind := kind_of_file(path):
        raise InputError(f"{path} {kind}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV or TSV with their line numbers, cells without space around them, empty rows left out.

    Raises:
        InputError: it cannot be read, or a quote does not end.
    """
    text = read_text(path)
    first = text.partition("\n")[0]
    is_tsv = path.suffix.lower() == ".tsv"
    separator = "\t" if is_tsv else "|" if "|" in first and "," not in first else ","
    lines = io.StringIO(text, newline="")
    if separator == ",":
        reader = csv.reader(lines, strict=True)
    else:
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is no CSV: {error}") from None


def read_json(path: Path) -> Any:
    """Return a JSON file's content.

    Raises:
        InputError: it cannot be read or is not JSON.
    """
    text = read_text(path)
    try:
        return parse_json(text.encode())
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None


PICTURE_COLUMNS = ("image", "picture", "filename", "file_name", "image_name", "file", "path")
CAPTION_COLUMNS = ("caption", "captions", "comment", "sentence", "text")
SPLIT_NAMES = {
    "train": ("train", "restval"),
    "dev": ("dev", "val", "validation"),
    "test": ("test",),
    "testall": ("testall", "test"),
}
"""`--split` -> what files call it."""


@dataclass(frozen=True)
class Record:
    """What one place of a file says: captions of a picture, and its split if it tells."""

    picture: str
    captions: tuple[str, ...]
    split: str | None
    where: str


@dataclass(frozen=True)
class Listing:
    """Pictures in the order of the file, each with equally many captions.

    Attributes:
        pictures: their names, each once.
        captions: of each picture, in the order of the file, without line breaks.
    """

    pictures: list[str]
    captions: list[list[str]]

    def part(self, wanted: Iterable[int]) -> Listing:
        """Return some of the pictures."""
        numbers = list(wanted)
        return Listing([self.pictures[k] for k in numbers], [self.captions[k] for k in numbers])


def read_listing(path: Path, split: str, captions_per_image: int | None = None) -> Listing:
    """Read the pictures of a split.

    Args:
        path: .json, .csv, .tsv or .txt.
        split: key of `SPLIT_NAMES`.
        captions_per_image: keep so many first captions of each picture; None takes all, which must be equally many.

    Raises:
        InputError: not such a file (line or entry), no picture of the split, an empty caption, or pictures with
            different numbers of captions.
    """
    return _even(path, captions_by_picture(path, split), captions_per_image)


def captions_by_picture(path: Path, split: str) -> dict[str, list[str]]:
    """Read the captions of each picture, by its name, in the order of the file.

    Args:
        path: .json, .csv, .tsv or .txt.
        split: key of `SPLIT_NAMES`; of files that tell no splits every picture is taken.

    Raises:
        InputError: not such a file (line or entry), no picture of the split, an empty caption.
    """
    if path.suffix.lower() not in READERS:
        raise InputError(f"{path} has the suffix {path.suffix!r}; known: {', '.join(READERS)}")
    records = list(READERS[path.suffix.lower()](path))
    for record in records:
        if not isinstance(record.split, (str, NoneType)):
            raise InputError(f"{record.where}: split is {record.split!r}; it must be a name")
    found = Counter(record.split for record in records)
    if set(found) - {None}:
        records = [record for record in records if record.split in SPLIT_NAMES[split]]
    if not records:
        told = ", ".join(f"{name} ({count})" for name, count in found.items()) or "none at all"
        raise InputError(f"{path} has no picture of split {split}; it has: {told}")
    grouped: dict[str, list[str]] = {}
    for record in records:
        if not all(isinstance(text, str) for text in (record.picture, *record.captions)):
            raise InputError(f"{record.where}: a picture's name and its captions must be texts")
        captions = [" ".join(caption.split()) for caption in record.captions]
        if not record.picture or any(c in record.picture for c in "\r\n"):
            raise InputError(f"{record.where}: {record.picture!r} is no picture's name")
        if not captions or not all(captions):
            raise InputError(f"{record.where}: picture {record.picture} has an empty caption, or none")
        grouped.setdefault(record.picture, []).extend(captions)
    return grouped


def _even(path: Path, grouped: dict[str, list[str]], wanted: int | None) -> Listing:
    """Return equally many captions of every picture."""
    fewest = min(grouped, key=lambda name: len(grouped[name]))
    most = max(grouped, key=lambda name: len(grouped[name]))
    low, high = len(grouped[fewest]), len(grouped[most])
    if wanted is None and low != high:
        raise InputError(
            f"--captions {path}: {fewest} has {low} captions, {most} has {high}; all pictures need equally many: "
            f"--captions_per_image {low} keeps the first {low} of each"
        )
    if wanted is not None and low < wanted:
        raise InputError(f"--captions {path}: {fewest} has {low} captions, --captions_per_image is {wanted}")
    return Listing(list(grouped), [captions[:wanted] for captions in grouped.values()])


def is_caption_column(name: str) -> bool:
    """Tell whether a column of this name, in lower case, holds captions: `caption`, `comment`, `caption_2`, ..."""
    return name in CAPTION_COLUMNS or re.fullmatch(r"caption[ _-]?\d+", name) is not None


def first_of(entry: Any, names: Sequence[str]) -> Any:
    """Return an object's value under the first of these names that it has.

    Raises:
        KeyError: it has none of them.
    """
    for name in names:
        if name in entry:
            return entry[name]
    raise KeyError(" or ".join(names))


def _from_table(path: Path) -> Iterator[Record]:
    picture, split, width = 0, None, 0
    captions: list[int] | None = None
    for k, (number, row) in enumerate(read_rows(path)):
        names = [cell.lower() for cell in row]
        if k == 0 and set(names) & set(PICTURE_COLUMNS):
            picture = next(c for c, name in enumerate(names) if name in PICTURE_COLUMNS)
            captions = [c for c, name in enumerate(names) if is_caption_column(name)]
            split = names.index("split") if "split" in names else None
            if not captions:
                raise InputError(f"{path} names no column of captions; known: {', '.join(CAPTION_COLUMNS)}")
            width = len(row)
            continue
        if captions is not None and len(row) != width:
            raise InputError(f"{path} line {number} has {len(row)} fields, its first line names {width}")
        if len(row) < 2:
            raise InputError(f"{path} line {number} has one field; a line is a picture and its captions")
        texts = row[1:] if captions is None else [row[c] for c in captions]
        yield Record(row[picture], tuple(texts), row[split] if split is not None else None, f"{path} line {number}")


def _from_lines(path: Path) -> Iterator[Record]:
    lines = read_text(path).removesuffix("\n").split("\n")
    if any("\t" in line for line in lines):
        for number, line in enumerate(lines, start=1):
            name, tab, caption = line.partition("\t")
            if not tab:
                raise InputError(f"{path} line {number} has no tab; a line is: picture TAB caption")
            yield Record(re.sub(r"#\d+$", "", name.strip()), (caption,), None, f"{path} line {number}")
        return
    names_path = path.with_name(f"{path.stem.removesuffix('_caps')}_images.txt")
    if not names_path.is_file():
        raise InputError(f"{path} has no tabs (picture TAB caption), and no {names_path} beside it names the pictures")
    names = [line.strip() for line in read_text(names_path).removesuffix("\n").split("\n")]
    each, rest = divmod(len(lines), len(names))
    if rest or not each:
        raise InputError(f"{path} has {len(lines)} captions for the {len(names)} pictures of {names_path}")
    for k, caption in enumerate(lines):
        yield Record(names[k // each], (caption,), None, f"{path} line {k + 1}")


def _from_json(path: Path) -> Iterator[Record]:
    content = read_json(path)
    try:
        yield from _records(path, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not of a known shape ({error!r}): {{picture: captions}}, or a list of objects with image and "
            "caption"
        ) from None


def _records(path: Path, content: Any) -> Iterator[Record]:
    if isinstance(content, dict) and {"images", "annotations"} <= set(content):
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for k, entry in enumerate(content["annotations"]):
            yield Record(names[entry["image_id"]], (entry["caption"],), None, f"{path}: annotation {k}")
    elif isinstance(content, dict) and isinstance(content.get("images"), list):
        for k, entry in enumerate(content["images"]):
            name = "/".join(part for part in (entry.get("filepath"), entry["filename"]) if part)
            captions = tuple(sentence["raw"] for sentence in entry["sentences"])
            yield Record(name, captions, entry.get("split"), f"{path}: image {k}")
    elif isinstance(content, dict) and isinstance(content.get("image"), list):
        names, captions = content["image"], content["caption"]
        each = len(captions) // max(1, len(names)) if captions and isinstance(captions[0], str) else 1
        if each * len(names) != len(captions):
            raise InputError(f"{path} has {len(captions)} entries of captions for {len(names)} images")
        for k, name in enumerate(names):
            yield Record(name, _several(captions[k * each : (k + 1) * each]), None, f"{path}: image {k}")
    elif isinstance(content, dict):
        for name, captions in content.items():
            yield Record(name, _several(captions), None, f"{path}: {name}")
    else:
        for k, entry in enumerate(content):
            name, captions = first_of(entry, PICTURE_COLUMNS), first_of(entry, CAPTION_COLUMNS)
            yield Record(name, _several(captions), entry.get("split"), f"{path}: entry {k}")


def _several(captions: Any) -> tuple[str, ...]:
    """Return captions given as a text, a list of texts, or a list of such lists."""
    if isinstance(captions, str):
        return (captions,)
    if not isinstance(captions, list):
        raise TypeError(f"captions are {captions!r}")
    return tuple(text for entry in captions for text in _several(entry))


READERS = {".json": _from_json, ".csv": _from_table, ".tsv": _from_table, ".txt": _from_lines}
"""By the file's suffix."""
