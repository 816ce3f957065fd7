"""Made-up bottom-up-attention TSV files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def tsv_line(image: str, features: np.ndarray) -> list[str]:
    """Return the fields of one image: features (num_boxes, D)."""
    boxes = np.tile(np.array([0, 0, 10, 20], np.float32), (len(features), 1))
    encoded = [base64.b64encode(a.astype("<f4").tobytes()).decode() for a in (boxes, features)]
    return [image, "640", "480", str(len(features)), *encoded]


def write_lines(path: Path, lines: Sequence[Sequence[str]], *, end: str = "\n") -> Path:
    """Write fields as lines; return the path."""
    path.write_bytes("".join("\t".join(fields) + end for fields in lines).encode())
    return path


def write_tsv(path: Path, features: np.ndarray, ids: Sequence[str] | None = None, *, end: str = "\n") -> Path:
    """Write features (n, R, D) with ids `100`, `101`, ..., or the given ones; return the path."""
    names = ids or [str(100 + k) for k in range(len(features))]
    return write_lines(path, [tsv_line(n, f) for n, f in zip(names, features, strict=True)], end=end)
