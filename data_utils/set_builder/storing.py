"""Writing the files of the set."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

THUMBNAIL = 72
QUALITY = 70
CHUNK = (64, 36, 8)  # neighbouring principal axes vary alike, so gzip does better on a few of them at a time


def write_features(path: Path, stored: np.ndarray, scales: np.ndarray) -> None:
    """Write the region features of a split.

    Args:
        path: The HDF5 file.
        stored: int8 of shape (pictures, cells, dims).
        scales: Width of a step for each dimension, float32 of shape (dims,).
    """
    with h5py.File(path, "w", track_order=False) as file:
        chunks = tuple(min(a, b) for a, b in zip(CHUNK, stored.shape, strict=True))
        file.create_dataset("features", data=stored, chunks=chunks, compression="gzip", compression_opts=9)
        file.create_dataset("scales", data=scales)


def write_captions(path: Path, captions: Sequence[Sequence[str]]) -> None:
    """Write the captions of a split, one a line.

    Args:
        path: The text file.
        captions: The captions of each picture.
    """
    lines = [caption for own in captions for caption in own]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def write_pictures(path: Path, records: Mapping[str, list[dict[str, str]]]) -> None:
    """Write what each row shows and who drew it.

    Args:
        path: The JSON file.
        records: For each split one record a picture.
    """
    parts = []
    for split, rows in records.items():
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        parts.append(f"{json.dumps(split)}:[\n{lines}\n]")
    path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8", newline="\n")


def webp(pixels: np.ndarray) -> bytes:
    """Shrink and encode one picture.

    Args:
        pixels: uint8 of shape (height, width, 3).

    Returns:
        A WebP file.
    """
    small = Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def write_thumbnails(path: Path, splits: Mapping[str, list[int]], pixels: np.ndarray, grey: np.ndarray) -> None:
    """Write the thumbnails and grey images of all splits into one file.

    Args:
        path: The HDF5 file.
        splits: Indices of the pictures of each split.
        pixels: All pictures, uint8 of shape (pictures, height, width, 3).
        grey: All grey images, uint8 of shape (pictures, 16, 16).
    """
    with h5py.File(path, "w", track_order=False) as file:
        for split, rows in splits.items():
            files = [webp(pixels[i]) for i in rows]
            options: dict[str, Any] = {"compression": "gzip", "compression_opts": 9}
            group = file.create_group(split)
            group.create_dataset("bytes", data=np.frombuffer(b"".join(files), np.uint8))
            offsets = np.cumsum([0, *map(len, files)], dtype=np.int64)
            group.create_dataset("offsets", data=offsets, shuffle=True, **options)
            group.create_dataset("grey16", data=grey[rows], chunks=True, **options)
