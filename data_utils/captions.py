"""Captions from disk, and their tokens: `{split}_caps.txt` (a caption a line) or `{split}_caps.tsv` (id TAB caption).

In a tsv the ids decide which captions belong to one image, whatever the order of the lines (see
`data_utils/precomputed.py`). NCR's public list of cc152k has a third column, the picture's address: it is ignored where
every line has one.

Token ids are kept on disk between starts, in the user's cache folder. A file there holds arrays `ids` and `lengths`
(see `Tokens`) and `key`, what they were made from: the caption file's content, the vocabulary, and how captions become
tokens. Its name is a hash of that key. Files may be deleted at any time; one that is damaged is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

from runtime.errors import InputError
from runtime.files import HEAD_BYTES, foreign_kind, whole_file
from vocab.vocabulary import Vocabulary

LONGEST = 5000
"""Characters of a caption: the time of NLTK's rules grows with their square."""

ADDRESSES = ("http://", "https://")
"""What the third field of a tsv's lines may start with."""

TOKEN_FORMAT = 3
"""Raised whenever captions become other tokens, are refused that were not, or the cache file gets another layout."""


@dataclass(frozen=True)
class CaptionFile:
    """What a caption file holds.

    Attributes:
        path: where it is.
        texts: its captions in file order.
        ids: the image id of each caption; None in a .txt, where position decides.
        digest: hash of its content.
        has_addresses: every line has a third field, an address, which is ignored.
    """

    path: Path
    texts: list[str]
    ids: list[str] | None
    digest: str
    has_addresses: bool = False


@dataclass(frozen=True)
class Tokens:
    """Captions as ids.

    Attributes:
        ids: (ids of all captions,) int32, caption after caption, each `<start> w1 .. wn <end>`.
        lengths: (captions,) int64.
    """

    ids: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def only(self, is_wanted: np.ndarray) -> Tokens:
        """Return the captions of a mask (captions,), in their order."""
        return Tokens(self.ids[np.repeat(is_wanted, self.lengths)], self.lengths[is_wanted])


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
    is_tsv, digest = path.suffix == ".tsv", hashlib.sha256(content).hexdigest()
    return CaptionFile(path, texts, ids if is_tsv else None, digest, has_addresses=width == 3)


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


def cache_folder() -> Path | None:
    """Return the folder that keeps tokens, in XDG_CACHE_HOME or ~/.cache; None: the user has no home."""
    place = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(place) if os.path.isabs(place) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "noisy-correspondence" / "tokens"


def read_tokens(captions: CaptionFile, vocabulary: Vocabulary) -> Tokens:
    """Return the tokens of captions, from the cache if they are there, and leave them there if they were not.

    A cache that cannot be written costs time at the next start and is no fault.
    """
    key = (
        f"format {TOKEN_FORMAT}, {captions.path.suffix} {captions.digest}, vocabulary {vocabulary.digest()}, "
        f"nltk {version('nltk')}"
    )
    folder = cache_folder()
    place = None if folder is None else folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    tokens = None if place is None else _kept(place, key, len(captions.texts), len(vocabulary))
    if tokens is None:
        tokens = Tokens(*vocabulary.encode_all(captions.texts))
        if place is not None:
            with contextlib.suppress(OSError, InputError):
                place.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(place) as file:
                    np.savez(file, key=np.array(key), ids=tokens.ids, lengths=tokens.lengths)
    return tokens


def _kept(place: Path, key: str, num_captions: int, num_words: int) -> Tokens | None:
    """Return what a cache file holds, None if there is none, or it is damaged, or not what `key` says."""
    try:
        with np.load(place, allow_pickle=False) as found:
            ids, lengths = found["ids"], found["lengths"]
            is_whole = (
                (str(found["key"]), ids.dtype, lengths.dtype) == (key, np.int32, np.int64)
                and (ids.shape, lengths.shape) == ((lengths.sum(),), (num_captions,))
                and lengths.min() >= 2
                and 0 <= ids.min() <= ids.max() < num_words
            )
    except Exception:  # there is none, or the bytes of another file, which can lead the reader into any exception
        return None
    return Tokens(ids, lengths) if is_whole else None
