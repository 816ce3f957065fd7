"""Token ids of a split's captions, kept on disk between starts.

A cache file holds arrays `ids` and `lengths` (see `Tokens`) and `key`, what they were made from: the caption file's
content, the vocabulary, and how captions become tokens. Its name is a hash of that key. Files may be deleted at any
time; one that is damaged, or not ours, is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from data_utils.captions import parse_captions
from data_utils.npy_file import read_array
from runtime.checkpoint import write_atomically
from runtime.errors import InputError
from vocab.vocabulary import Vocabulary

OFF = "off"
BYTES_A_LETTER = 20
"""A caption file of one-letter words in lines of their own needs no more: three ids of 4 bytes and a length of 8."""

LARGEST_PACKED = 2**16
"""Bytes for the key and the headers of the arrays."""

FORMAT = 3
"""Raised whenever captions become other tokens, are refused that were not, or the file gets another layout."""


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


def cache_folder(token_cache: str | None) -> Path | None:
    """Return the folder that `--token_cache` means; None where tokens are not kept."""
    if token_cache is not None:
        return None if token_cache == OFF else Path(token_cache)
    place = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(place) if os.path.isabs(place) else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return base / "noisy-correspondence" / "tokens"


def read_tokens(path: Path, vocabulary: Vocabulary, token_cache: str | None = None) -> Tokens:
    """Return a caption file's tokens, from the cache if they are there, and leave them there if they were not.

    A cache that cannot be written costs time at the next start and is no fault.

    Raises:
        InputError: what `parse_captions` raises.
    """
    content = path.read_bytes()
    folder = cache_folder(token_cache)
    if folder is None:
        return Tokens(*vocabulary.encode_all(parse_captions(path, content).texts))
    key = _key(path, content, vocabulary)
    place = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    tokens = _load(place, key, len(vocabulary), LARGEST_PACKED + BYTES_A_LETTER * len(content))
    if tokens is None:
        tokens = Tokens(*vocabulary.encode_all(parse_captions(path, content).texts))
        with contextlib.suppress(OSError, InputError):
            folder.mkdir(parents=True, exist_ok=True)
            _save(place, key, tokens)
    return tokens


def _key(path: Path, content: bytes, vocabulary: Vocabulary) -> str:
    """Return all that the ids depend on, in words."""
    return (
        f"format {FORMAT}, {path.suffix} {hashlib.sha256(content).hexdigest()}, vocabulary {vocabulary.digest()}, "
        f"nltk {version('nltk')}"
    )


def _save(place: Path, key: str, tokens: Tokens) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, key=np.array(key), ids=tokens.ids, lengths=tokens.lengths)
    write_atomically(place, buffer.getvalue())


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member:
        return read_array(member, archive.getinfo(name).file_size)  # type: ignore[arg-type]


def _load(place: Path, key: str, num_words: int, largest: int) -> Tokens | None:
    """Return what a cache file holds, None if there is none, or it is damaged, not what `key` says, or too large."""
    try:
        with zipfile.ZipFile(place) as archive:
            if sum(member.file_size for member in archive.infolist()) > largest:
                return None
            found, ids, lengths = (_member(archive, f"{name}.npy") for name in ("key", "ids", "lengths"))
        if found.shape != () or str(found) != key:
            return None
        tokens = Tokens(ids, lengths)
    except Exception:  # there is none, or the bytes of another file, which can lead the reader into any exception
        return None
    is_whole = (
        (ids.ndim, ids.dtype, lengths.ndim, lengths.dtype) == (1, np.int32, 1, np.int64)
        and len(lengths) > 0
        and lengths.min() >= 2
        and lengths.sum() == len(ids)
        and 0 <= ids.min()
        and ids.max() < num_words
    )
    return tokens if is_whole else None
