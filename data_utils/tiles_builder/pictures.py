"""Which drawing of which tileset shows which concept, and its picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_utils.set_builder.drawings import SIZE
from data_utils.tiles_builder.concepts import Concept
from data_utils.tiles_builder.tilesets import Tileset

ON_GROUND = ("terrain", "furniture")
"""Kinds whose ground belongs to them; behind other things it is the tileset's shadow or cloth for all of them."""
FEWEST = 12
"""Pixels of a drawing that differ from white, of the sprite: dots show nothing."""
VISIBLE = 24
"""Levels by which a pixel differs from white that can be seen."""
COARSE, COPIED = 8, 40
"""What copies of a drawing are compared by: pixels of a side, and levels. Chosen by eye: under 32 levels about four
pairs of five are copies, at 40 two of five, and of pairs of different concepts one of eighty is that near."""


@dataclass(frozen=True)
class Picture:
    """One drawing of one concept.

    Attributes:
        concept: Index of the concept.
        artist: Name of the tileset.
        pixels: What is shown, on white, uint8 of shape (height, width, 3).
        front: The same without ground, cut to what can be seen.
    """

    concept: int
    artist: str
    pixels: np.ndarray
    front: np.ndarray

    @property
    def source(self) -> bytes:
        """The drawing without ground, with its size."""
        return b"%d %d " % self.front.shape[:2] + self.front.tobytes()


def on_white(drawing: np.ndarray) -> np.ndarray:
    """Lay a drawing on white.

    Args:
        drawing: RGBA, uint8 of shape (height, width, 4).

    Returns:
        RGB, uint8 of shape (height, width, 3).
    """
    picture = Image.fromarray(drawing)
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return np.asarray(white.convert("RGB"))


def find_pictures(concepts: Sequence[Concept], tilesets: dict[str, Tileset]) -> list[Picture]:
    """Draw all concepts in all tilesets.

    Args:
        concepts: The concepts.
        tilesets: The tilesets by name.

    Returns:
        The pictures of drawings that show something, by concept and then by tileset. A drawing that is used for several
        concepts, by one tileset or by several, is there for the first of them.
    """
    pictures: dict[bytes, Picture] = {}
    for number, concept in enumerate(concepts):
        for artist, tileset in tilesets.items():
            if concept.code not in tileset.tiles:
                continue
            front = tileset.drawing(concept.code, ground=False)
            whole = tileset.drawing(concept.code, ground=concept.kind in ON_GROUND)
            if front is None or whole is None:
                continue
            picture = Picture(number, artist, on_white(whole), on_white(front))
            if (picture.front.min(axis=2) < 256 - VISIBLE).sum() >= FEWEST:
                pictures.setdefault(picture.source, picture)
    return list(pictures.values())


def enlarge(pixels: np.ndarray) -> np.ndarray:
    """Enlarge a small picture to the size of the set's pictures, without smoothing.

    Args:
        pixels: uint8 of shape (height, width, 3), at most SIZE high and wide.

    Returns:
        uint8 of shape (SIZE, SIZE, 3): each pixel is a square of as many whole pixels as fit, in the middle of white.
    """
    height, width = pixels.shape[:2]
    times = SIZE // max(height, width)
    canvas = np.full((SIZE, SIZE, 3), 255, np.uint8)
    top, left = (SIZE - times * height) // 2, (SIZE - times * width) // 2
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    canvas[top : top + large.shape[0], left : left + large.shape[1]] = large
    return canvas


def copied_pairs(pictures: Sequence[Picture]) -> np.ndarray:
    """Find drawings that a tileset has taken over from another one: scaled, with other outlines or shades.

    Drawings of one concept are copies if they differ by less than COPIED levels on average, over the pixels and colours
    of what can be seen, stretched to COARSE x COARSE. The finer grey images of whole pictures, which find twins among
    all concepts, find few of them: sprites have different sizes, and an outline is a tenth of a picture wide.

    Args:
        pictures: The pictures, those of a concept in a row.

    Returns:
        Pairs of indices (first < second), int64 of shape (pairs, 2).
    """
    coarse = [_coarse(picture) for picture in pictures]
    pairs = []
    for first, picture in enumerate(pictures):
        for second in range(first + 1, len(pictures)):
            if pictures[second].concept != picture.concept:
                break
            if np.abs(coarse[first] - coarse[second]).mean() < COPIED:
                pairs.append((first, second))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _coarse(picture: Picture) -> np.ndarray:
    """Return what a drawing shows as int64 of shape (COARSE, COARSE, 3)."""
    small = Image.fromarray(picture.front).resize((COARSE, COARSE), Image.Resampling.BOX)
    return np.asarray(small).astype(np.int64)
