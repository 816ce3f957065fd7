"""A gallery's index on disk: the keys of one side, images or captions, and where they are many their inverted lists.

    DIR/images/keys.npy      (N, K) float32, read through a memory map
    DIR/images/lists.faiss   of more than EXACT_ROWS rows
    DIR/images/index.json    what they were made from, and how far they are
    DIR/estimate.npz         how queries become keys, for SGR, SAF and SCAN

Keys are written in order; a build that was broken off goes on where it was. An index whose checkpoint or gallery has
changed is stale, and is built anew.
Legend: N rows, K dimensions of a key.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_utils.captions import captions_file
from data_utils.precomputed import PrecomputedSplit
from models.keys import Keys
from models.matcher import Matcher
from runtime.errors import InputError
from runtime.files import LOCK, FolderLock, array_file, write_json
from tools.search.retrieval import EXACT_ROWS, LISTS, Side, build_lists
from tools.search.scores import KeyedMatcher, caption_keys, fit_networks, image_keys

FORMAT = 2
"""Raised whenever the same files give other keys, or the index has another layout."""

IMAGES, CAPTIONS = "images", "captions"
KEYS, ABOUT, ESTIMATE = "keys.npy", "index.json", "estimate.npz"
SAVED_EVERY = 4096
"""So many rows may have to be encoded again after a break."""

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]
"""Row numbers and their keys."""


def identity(checkpoint: Path, split: PrecomputedSplit) -> dict[str, Any]:
    """Return what an index depends on: the checkpoint's content, the gallery's captions and features.

    Features may be larger than can be read again: their place in time and their size stand for them.
    """
    regions, captions = split.regions.path, captions_file(split.regions.path.parent, split.name)
    state = regions.stat()
    return {
        "format": FORMAT,
        "checkpoint": _digest(checkpoint),
        "split": split.name,
        "images": split.num_images,
        "captions": _digest(captions),
        "features": f"{state.st_size} bytes, changed at {state.st_mtime_ns} ns",
    }


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class IndexFolder:
    """An index of a gallery in the making or whole.

    Args:
        folder: where it is, or will be.
        about: `identity`.
        say: told what is found and done.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """

    def __init__(self, folder: Path, about: dict[str, Any], say: Callable[[str], None] = lambda line: None) -> None:
        self._folder, self._about, self._say = folder, about, say
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--index {folder} is a file; name a folder")
        known = {IMAGES, CAPTIONS, ESTIMATE, LOCK}
        if folder.is_dir() and (strange := sorted({p.name for p in folder.iterdir()} - known)):
            raise InputError(f"--index {folder} holds {strange[0]}, which is no part of an index; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--index {folder} cannot be made: {error.strerror}") from None

    def networks(self, matchers: list[Matcher], split: PrecomputedSplit, device: torch.device) -> list[KeyedMatcher]:
        """Return the networks with the keys that the index was made with, or with new ones, which are kept."""
        place, digest = self._folder / ESTIMATE, json.dumps(self._about, sort_keys=True)
        if place.is_file():
            stored = _read_estimate(place, digest, len(matchers), device)
            if stored is not None:
                return [KeyedMatcher(m, keys) for m, keys in zip(matchers, stored, strict=True)]
        networks = fit_networks(matchers, split, device)
        with array_file(place) as write:
            write("about", np.array(digest))
            for k, network in enumerate(networks):
                for name in ("slope", "offset"):
                    value = getattr(network.keys, name)
                    write(f"{name}_{k}", np.empty(0) if value is None else value.cpu().numpy())
        return networks

    def images(
        self,
        networks: list[KeyedMatcher],
        split: PrecomputedSplit,
        device: torch.device,
        advance: Callable[[int], None],
    ) -> Side:
        """Return the images' side, built if it is not there, not whole, or stale."""
        return self._side(IMAGES, split.num_images, lambda start: image_keys(networks, split, device, start), advance)

    def captions(
        self,
        networks: list[KeyedMatcher],
        split: PrecomputedSplit,
        device: torch.device,
        advance: Callable[[int], None],
    ) -> Side:
        """Return the captions' side, likewise."""
        return self._side(CAPTIONS, len(split), lambda start: caption_keys(networks, split, device, start), advance)

    def _side(self, name: str, rows: int, blocks_from: Callable[[int], Blocks], advance: Callable[[int], None]) -> Side:
        folder = self._folder / name
        if self._done(folder, rows) < rows or (rows > EXACT_ROWS and not (folder / LISTS).is_file()):
            held = FolderLock(self._folder)  # another process may be building it
            try:
                self._build(folder, rows, blocks_from, advance)
            except OSError as error:
                raise InputError(f"--index {folder} cannot be written: {error.strerror or error}") from None
            finally:
                held.release()
        return Side(folder, np.load(folder / KEYS, mmap_mode="r"))

    def _build(
        self, folder: Path, rows: int, blocks_from: Callable[[int], Blocks], advance: Callable[[int], None]
    ) -> None:
        done = self._done(folder, rows)
        if 0 < done < rows:
            self._say(f"{folder}: goes on after {done:,} of {rows:,} rows")
        if not done:
            self._clear(folder)
        folder.mkdir(exist_ok=True)
        if done < rows:
            fill(folder / KEYS, rows, done, blocks_from(done), lambda count: self._note(folder, count), advance)
        if rows > EXACT_ROWS and not (folder / LISTS).is_file():
            self._say(f"{folder}: inverted lists of {rows:,} rows")
            build_lists(np.load(folder / KEYS, mmap_mode="r"), folder / LISTS)

    def _changed(self, stored: dict[str, Any]) -> list[str]:
        return [name for name, value in self._about.items() if stored.get(name) != value]

    def _done(self, folder: Path, rows: int) -> int:
        """Return how many rows are there already; 0 of an index that is stale or damaged."""
        stored = _read_about(folder / ABOUT)
        done = stored.get("rows_done", 0)
        is_ours = not self._changed(stored) and isinstance(done, int) and 0 <= done <= rows
        return done if is_ours and _fits(folder / KEYS, rows) else 0

    def _clear(self, folder: Path) -> None:
        """Remove a stale index, and say what has changed."""
        if stored := _read_about(folder / ABOUT):
            changed = ", ".join(self._changed(stored))
            why = f"{changed} changed since it was built" if changed else "its keys are damaged"
            self._say(f"{folder} is stale ({why}): built anew")
        for part in (ABOUT, KEYS, LISTS):
            (folder / part).unlink(missing_ok=True)

    def _note(self, folder: Path, rows_done: int) -> None:
        write_json(folder / ABOUT, {**self._about, "rows_done": rows_done})


def fill(
    path: Path,
    rows: int,
    done: int,
    blocks: Blocks,
    note: Callable[[int], None],
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Write the rows after the first `done`; `note` is told how many are safe on disk, `advance` how many more came.

    Raises:
        InputError: a key is not finite: the network has diverged.
    """
    file = np.load(path, mmap_mode="r+") if done else None
    noted = done
    advance(done)
    for numbers, keys in blocks:
        if not np.isfinite(keys).all():
            raise InputError("the network gives NaN or infinity for the gallery: it has diverged")
        if file is None:
            file = np.lib.format.open_memmap(path, "w+", np.float32, (rows, keys.shape[1]))
        file[numbers] = keys
        done += len(numbers)
        advance(len(numbers))
        if done - noted >= SAVED_EVERY or done == rows:
            file.flush()
            note(done)
            noted = done


def _fits(path: Path, rows: int) -> bool:
    """Tell whether a file of keys is there for so many rows, whole."""
    try:
        return len(np.load(path, mmap_mode="r")) == rows
    except (OSError, ValueError, EOFError):
        return False


def _read_about(path: Path) -> dict[str, Any]:
    """Return an index's description, empty if there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_estimate(path: Path, digest: str, networks: int, device: torch.device) -> list[Keys] | None:
    """Return the stored keys' maps; None if they are of another index, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["about"]) != digest:
                return None
            pairs = [
                [torch.from_numpy(file[f"{name}_{k}"]).to(device) for name in ("slope", "offset")]
                for k in range(networks)
            ]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return [Keys(*pair) if pair[0].numel() else Keys() for pair in pairs]
