"""Tilesets: which sprites of which sheets a tile is made of.

A tile's `fg` and `bg` are numbers of sprites, counted through all sheets of the tileset row by row, or lists of them
(rotations, or choices with weights), of which the first is taken.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_utils.set_builder.sources import read_json

# The order matters: it numbers the artists, and of two copies the earlier tileset's is kept: finer ones come first.
TILESETS = {
    "UltimateCataclysm": "UltiCa, 32 x 32, by I-am-Erk and the CDDA-Tilesets community; trees by Yar (opengameart.org)",
    "MshockXotto+": "MSXotto+, 32 x 32, by the CDDA-Tilesets community; earlier contributors: Sir Hoder, Tsu's, Waldo, "
    "Coleen, Deon, Blockhead, Arex, Mshock, egomassive, Ragamer, ChunkofMeat, Ruxe, Oakforce, Xotto, Chezzo, "
    "Arkenstone1, SomeDeadGuy, budg3",
    "BrownLikeBears": "BrownLikeBears, 20 x 20",
    "ChestHole16Tileset": 'ChestHole16, 16 x 16, by Sean "Chezzo" Osman, Lukas Courtial "Zava" and VoidDweller, based '
    "on the tilesets of Daftigod, Mindflayer, John Shaw, mshock, egomassive, Arex, Coleen, Waldo, Tsu, Sir Hoder, "
    "Blockhead, Ragamer, Deon, ChunkofMeat, Oakforce and Ruxe",
    "NeoDaysTileset": "NeoDays, 10 x 10",
}
"""Folder of each tileset, and what the package tells of it."""


@dataclass(frozen=True)
class Sheet:
    """One picture file full of sprites.

    Attributes:
        pixels: RGBA, uint8 of shape (height, width, 4).
        first: Number of its first sprite.
        size: Width and height of a sprite.
        offset: Where a sprite's left upper corner lies in its place on the map.
    """

    pixels: np.ndarray
    first: int
    size: tuple[int, int]
    offset: tuple[int, int]

    @property
    def columns(self) -> int:
        """Sprites in a row."""
        return self.pixels.shape[1] // self.size[0]

    @property
    def count(self) -> int:
        """Sprites of the sheet."""
        return self.columns * (self.pixels.shape[0] // self.size[1])

    def sprite(self, number: int) -> np.ndarray:
        """Cut out a sprite.

        Args:
            number: Its number in the tileset.

        Returns:
            RGBA, uint8 of shape (height, width, 4).
        """
        row, column = divmod(number - self.first, self.columns)
        width, height = self.size
        return self.pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]


def first_sprite(value: Any) -> int | None:
    """Return the first sprite of a tile's `fg` or `bg`.

    Args:
        value: A number, a list of numbers or of {"sprite": value, ...}, or None.

    Returns:
        Its number, None if there is none.
    """
    while isinstance(value, (list, dict)):
        value = value.get("sprite") if isinstance(value, dict) else next(iter(value), None)
    return value if isinstance(value, int) and value >= 0 else None


class Tileset:
    """One artist's tiles.

    Args:
        folder: The tileset's folder with `tile_config.json` and the sheets.
    """

    def __init__(self, folder: Path) -> None:
        config = read_json(folder / "tile_config.json")
        usual = config["tile_info"][0]
        self.tiles: dict[str, dict[str, Any]] = {}
        """By the name of what they show; of several tiles the game takes the last."""
        self._sheets: list[Sheet] = []
        count = 0
        for part in config["tiles-new"]:
            if "ascii" in part:  # letters for what has no tile
                continue
            with Image.open(folder / part["file"]) as picture:
                pixels = np.asarray(picture.convert("RGBA"))
            size = (part.get("sprite_width", usual["width"]), part.get("sprite_height", usual["height"]))
            sheet = Sheet(pixels, count, size, (part.get("sprite_offset_x", 0), part.get("sprite_offset_y", 0)))
            self._sheets.append(sheet)
            count += sheet.count
            for tile in part["tiles"]:
                names = tile["id"] if isinstance(tile["id"], list) else [tile["id"]]
                self.tiles.update(dict.fromkeys(names, tile))

    def drawing(self, name: str, *, ground: bool) -> np.ndarray | None:
        """Draw a tile: its foreground, or its background if there is nothing else.

        Args:
            name: What it shows.
            ground: Whether the background lies behind the foreground.

        Returns:
            RGBA, uint8 of shape (height, width, 4), cut to what can be seen; None if nothing can.
        """
        tile = self.tiles[name]
        front, back = (self._placed(first_sprite(tile.get(layer))) for layer in ("fg", "bg"))
        layers = [layer for layer in (back, front) if layer is not None]
        if not ground and front is not None:
            layers = [front]
        if not layers:
            return None
        left, top = (min(offset[axis] for _, offset in layers) for axis in (0, 1))
        right = max(offset[0] + pixels.shape[1] for pixels, offset in layers)
        bottom = max(offset[1] + pixels.shape[0] for pixels, offset in layers)
        canvas = Image.new("RGBA", (right - left, bottom - top))
        for pixels, offset in layers:
            canvas.alpha_composite(Image.fromarray(pixels), (offset[0] - left, offset[1] - top))
        box = canvas.getchannel("A").getbbox()
        return None if box is None else np.asarray(canvas.crop(box))

    def _placed(self, number: int | None) -> tuple[np.ndarray, tuple[int, int]] | None:
        """Return a sprite that can be seen, and its offset."""
        for sheet in self._sheets:
            if number is not None and sheet.first <= number < sheet.first + sheet.count:
                pixels = sheet.sprite(number)
                return (pixels, sheet.offset) if pixels[..., 3].any() else None
        return None
