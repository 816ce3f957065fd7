"""Captions from disk: `{split}_caps.txt` (a caption a line) or `{split}_caps.tsv` (image id TAB caption)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from runtime.errors import InputError
from runtime.file_kinds import HEAD_BYTES, foreign_kind

LONGEST = 5000
"""Characters of a caption: the time of NLTK's rules grows with their square."""


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


def read_captions(folder: Path, split: str) -> list[str]:
    """Read a split's captions in file order.

    Raises:
        InputError: missing file, or what `parse_captions` raises.
    """
    path = captions_file(folder, split)
    return parse_captions(path, path.read_bytes())


def parse_captions(path: Path, content: bytes) -> list[str]:
    """Return the captions in a file's `content`; Windows line ends and a byte-order mark are accepted.

    Raises:
        InputError: a file of another kind or an empty one, bytes that are not UTF-8, a caption that is empty or too
            long, a tsv line without a tab; each with its line number.
    """
    if kind := foreign_kind(content[:HEAD_BYTES]):
        raise InputError(f"{path} {kind}")
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1].strip() == b"":
        lines.pop()
    if not lines:
        raise InputError(f"{path} is empty; it must hold one caption a line")
    captions = []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} line {number} is not UTF-8 ({error.reason}); save the file as UTF-8") from None
        if path.suffix == ".tsv":
            _, tab, text = text.partition("\t")
            if not tab:
                raise InputError(f"{path} line {number} has no tab; a line is: image id TAB caption")
            text = text.strip()
        if not text:
            raise InputError(f"{path} line {number} holds an empty caption; give every line a caption")
        if len(text) > LONGEST:
            raise InputError(
                f"{path} line {number} holds a caption of {len(text)} characters; {LONGEST} at most: is a line end "
                "missing?"
            )
        captions.append(text)
    return captions
