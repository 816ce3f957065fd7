"""A made-up game package: JSON, tilesets and the archive around them."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_utils.tiles_builder.package import ROOT
from data_utils.tiles_builder.tilesets import TILESETS

THINGS = 12


def sprite_sheet(number: int, columns: int, rows: int, side: int) -> np.ndarray:
    """Sprites of random blocks on nothing, RGBA, uint8 of shape (rows * side, columns * side, 4)."""
    random = np.random.RandomState(number)
    blocks = random.randint(0, 200, (rows * 4, columns * 4, 4)).astype(np.uint8)
    blocks[..., 3] = np.where(random.rand(rows * 4, columns * 4) < 0.8, 255, 0)
    return blocks.repeat(side // 4, axis=0).repeat(side // 4, axis=1)


def write_tileset(folder: Path, sheets: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Write a tileset's folder."""
    folder.mkdir(parents=True)
    for name, pixels in sheets.items():
        Image.fromarray(pixels).save(folder / name)
    (folder / "tile_config.json").write_text(json.dumps(config))


def write_game(root: Path) -> None:
    """Write a game of THINGS things that every tileset draws, under `root`."""
    things = [
        {
            "type": "MONSTER",
            "id": f"mon_{k}",
            "name": {"str": f"beast number {k}"},
            "description": f"It has {k} long legs.  Everybody fears it.  The colour of beast {k} is odd.",
        }
        for k in range(THINGS)
    ]
    folder = root / ROOT / "json" / "monsters"
    folder.mkdir(parents=True)
    (folder / "all.json").write_text(json.dumps(things))
    for number, name in enumerate(TILESETS):
        config = {
            "tile_info": [{"width": 16, "height": 16}],
            "tiles-new": [
                {"file": "tiles.png", "tiles": [{"id": f"mon_{k}", "fg": k} for k in range(THINGS)]},
                {"file": "missing.png", "tiles": [], "ascii": [{}]},
            ],
        }
        write_tileset(root / ROOT / "gfx" / name, {"tiles.png": sprite_sheet(number, 4, 3, 16)}, config)


def member(name: str, content: bytes) -> bytes:
    """Wrap a file as a member of an ar archive."""
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def debian_package(folder: Path) -> bytes:
    """Pack what `folder` holds as Debian does."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(folder, arcname=".")
    return (
        b"!<arch>\n"
        + member("debian-binary", b"2.0\n")
        + member("control.tar.xz", b"odd")  # padded to an even length
        + member("data.tar.xz", lzma.compress(packed.getvalue()))
    )
