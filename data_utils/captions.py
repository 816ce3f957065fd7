"""Captions from disk: `{split}_caps.txt` (a caption a line) or `{split}_caps.tsv` (image id TAB caption).

In a tsv the ids decide which captions belong to one image, whatever the order of the lines (see `data_utils.counts`).
NCR's public list of cc152k has a third column, the picture's address: it is ignored where every line has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from runtime.errors import InputError
from runtime.file_kinds import HEAD_BYTES, foreign_kind

LONGEST = 5000
"""Characters of a caption: the time of NLTK's rules grows with their square."""

ADDRESSES = ("http://", "https://")
"""What the third field of a tsv's lines may start with."""


@dataclass(frozen=True)
class CaptionFile:
    """What a caption file holds.

    Attributes:
        path: where it is.
        texts: its captions in file order.
        ids: the image id of each caption; None in a .txt, where position decides.
        has_addresses: every line has a third field, an address, which is ignored.
    """

    path: Path
    texts: list[str]
    ids: list[str] | None
    has_addresses: bool = False


def unsegmented(captions: Sequence[str]) -> str | None:
    """Return what to say of captions that have no spaces between words, as Chinese is written; None if they have.

    One-word labels are no such captions: they come again and again.
    """
    words = [len(caption.split()) for caption in captions]
    if median(words) > 1 or 2 * len(set(captions)) <= len(captions):
        return None
    return (
        "the captions have no spaces between words (median words of a caption: 1), so that each is one word to a "
        "vocabulary; segment them: write spaces between words, or between signs"
    )


def captions_file(folder: Path, split: str) -> Path:
    """Return the split's caption file.

    Raises:
        InputError: there is none; names the files it looked for.
    """
    candidates = [folder / f"{split}_caps.txt", folder / f"{split}_caps.tsv"]
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(f"split {split!r} has no captions: neither {candidates[0]} nor {candidates[1].name} is there")


def read_caption_file(folder: Path, split: str) -> CaptionFile:
    """Read a split's captions and their image ids.

    Raises:
        InputError: missing file, or what `parse_captions` raises.
    """
    path = captions_file(folder, split)
    return parse_captions(path, path.read_bytes())


def image_ids(path: Path) -> list[str] | None:
    """Return the image id of each line of a .tsv, None for a .txt; raises what `parse_captions` raises."""
    return parse_captions(path, path.read_bytes()).ids if path.suffix == ".tsv" else None


def read_captions(folder: Path, split: str) -> list[str]:
    """Read a split's captions alone, in file order; raises what `read_caption_file` raises."""
    return read_caption_file(folder, split).texts


def parse_captions(path: Path, content: bytes) -> CaptionFile:
    """Return what a caption file's `content` says; Windows line ends and a byte-order mark are accepted.

    Raises:
        InputError: a file of another kind or an empty one, bytes that are not UTF-8, a caption that is empty or too
            long, a tsv line without a tab or with a third field that is no address; each with its line number.
    """
    if kind := foreign_kind(content[:HEAD_BYTES]):
        raise InputError(f"{path} {kind}")
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1].strip() == b"":
        lines.pop()
    if not lines:
        raise InputError(f"{path} is empty; it must hold one caption a line")
    texts, ids, width = [], [], 0
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} line {number} is not UTF-8 ({error.reason}); save the file as UTF-8") from None
        if path.suffix == ".tsv":
            fields = [part.strip() for part in text.split("\t")]
            width = width or len(fields)
            _check_fields(f"{path} line {number}", fields, width)
            ids.append(fields[0])
            text = fields[1]
        if not text:
            raise InputError(f"{path} line {number} holds an empty caption; give every line a caption")
        if len(text) > LONGEST:
            raise InputError(
                f"{path} line {number} holds a caption of {len(text)} characters; {LONGEST} at most: is a line end "
                "missing?"
            )
        texts.append(text)
    return CaptionFile(path, texts, ids if path.suffix == ".tsv" else None, has_addresses=width == 3)


def _check_fields(where: str, fields: list[str], width: int) -> None:
    """Raise `InputError` unless a tsv's line is an id and a caption, or those and an address as on the first line."""
    if len(fields) == 1:
        raise InputError(f"{where} has no tab; a line is: image id TAB caption")
    is_address = len(fields) == 3 and fields[2].lower().startswith(ADDRESSES)
    if len(fields) > 2 and not is_address:
        told = f"a third field, {fields[2][:40]!r}" if len(fields) == 3 else f"{len(fields)} fields"
        raise InputError(
            f"{where} has {told}; a line is: image id TAB caption (a third field is ignored if it is an address, "
            "http:// or https://, and every line has one)"
        )
    if len(fields) != width:
        raise InputError(
            f"{where} has {len(fields)} fields, line 1 has {width}; either all lines end in an address, or none"
        )
