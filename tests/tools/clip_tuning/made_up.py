"""A made-up problem that a tiny CLIP learns in seconds: four solid patches, captions that name the colour of each."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tools.clip_tuning.model import Clip, ModelConfig, build_tiny

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "white": (240, 240, 240)}
PLACES = ("north", "east", "south", "west")
SIDE, PATCH = 24, 12
CAPTIONS = ["red north", "blue south east", "a white picture", "green"]


def make_pictures(folder: Path, kinds: np.ndarray, name: str) -> list[tuple[str, str]]:
    """Write a picture for each row of kinds (n, 4), the colour numbers of its patches; return (file name, caption)."""
    values, words = np.array(list(COLOURS.values()), dtype=np.uint8), list(COLOURS)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, kind in enumerate(kinds):
        pixels = values[kind].reshape(2, 2, 3).repeat(PATCH, axis=0).repeat(PATCH, axis=1)
        Image.fromarray(pixels).save(folder / f"{name}_{number}.png")
        rows.append((f"{name}_{number}.png", " ".join(words[k] + place for k, place in zip(kind, PLACES, strict=True))))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write pairs as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption"))
        writer.writerows(rows)
    return path


def make_colours(root: Path, *, copies: int = 3, held_out: int = 48) -> Path:
    """Write train.csv with every kind of picture `copies` times, dev.csv, test.csv, and the pictures; return `root`."""
    kinds = np.stack(np.unravel_index(np.random.RandomState(0).permutation(256), (4, 4, 4, 4)), axis=1)
    parts = {"train": np.tile(kinds, (copies, 1)), "dev": kinds[:held_out], "test": kinds[held_out : 2 * held_out]}
    for split, own in parts.items():
        write_csv(root / f"{split}.csv", make_pictures(root, own, split))
    return root


def colour_flags(root: Path, output: Path, *extra: str) -> list[str]:
    """Return the arguments of CLIP tuning for a tiny model on the problem under `root`; later flags win."""
    return [
        *(f for split in ("train", "dev", "test") for f in (f"--{split}_pairs", str(root / f"{split}.csv"))),
        *("--output_dir", str(output), "--gpu", "cpu", "--clip", "tiny", "--picture_size", str(SIDE)),
        *("--patch_size", str(PATCH), "--vision_width", "32", "--vision_layers", "2", "--text_width", "32"),
        *("--text_layers", "2", "--heads", "2", "--embed_size", "16", "--vocab_size", "540", "--max_tokens", "16"),
        *("--noise_ratio", "0.4", "--batch_size", "32", "--pretrain_lr", "3e-3", "--learning_rate", "1e-3"),
        *extra,
    ]


def write_json(path: Path, content: object) -> Path:
    """Write JSON."""
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def tiny_config(**changes: object) -> ModelConfig:
    """Return the settings of a model of two layers and width 32."""
    sizes = {"picture_size": SIDE, "patch_size": PATCH, "embed_size": 16, "vocab_size": 540, "max_tokens": 16}
    towers = {"vision_width": 32, "vision_layers": 2, "text_width": 32, "text_layers": 2, "heads": 2}
    return ModelConfig(**{**sizes, **towers, **changes})  # type: ignore[arg-type]


def tiny_clip(seed: int = 0, **changes: object) -> Clip:
    """Return a random model."""
    return build_tiny(tiny_config(**changes), CAPTIONS, seed)
