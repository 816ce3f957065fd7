"""Which picture of which artist shows which concept, its rendering to pixels, and its small grey image."""

import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.emoji_set.names import Concept, plain_code, read_json
from tools.extract.lite0 import SIZE

try:
    import resvg_py
except ImportError:  # only the builder's own requirements name it
    resvg_py = None

GREY = 16
"""Pixels of a grey image's side."""


@dataclass(frozen=True)
class Picture:
    """One drawing of one concept.

    Attributes:
        concept: Index of the concept.
        artist: Name of the artist.
        source: The drawing as an SVG document; the same for a drawing that is used again.
    """

    concept: int
    artist: str
    source: str


def slug(text: str) -> str:
    """Spell a name as icon sets do: "man’s shoe" is "mans-shoe"."""
    plain = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(c for c in plain if not unicodedata.combining(c) and c not in "'’“”")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


class IconSet:
    """One artist's icons, their other names and, where the package has them, their code points.

    Args:
        artist: Name of the artist.
        package: The unpacked package.
    """

    def __init__(self, artist: str, package: Path) -> None:
        data = read_json(package / "icons.json")
        chars = package / "chars.json"
        self.artist = artist
        self.icons: dict[str, dict[str, Any]] = data["icons"]
        self.aliases: dict[str, dict[str, Any]] = data.get("aliases", {})
        self.size: tuple[float, float] = (data["width"], data["height"])
        found = read_json(chars) if chars.exists() else {}
        self.by_code: dict[str, str] = {plain_code(code): name for code, name in found.items()}

    def names(self) -> dict[str, list[str]]:
        """Return for each icon its own name, then its aliases, without those that mirror it."""
        names = {name: [name] for name in self.icons}
        for alias, entry in self.aliases.items():
            if set(entry) == {"parent"} and entry["parent"] in names:
                names[entry["parent"]].append(alias)
        return names

    def picture(self, concept: int, name: str) -> Picture:
        """Make the picture of the icon `name`, which shows the concept of that index."""
        icon = self.icons[name]
        width, height = icon.get("width", self.size[0]), icon.get("height", self.size[1])
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{SIZE}" height="{SIZE}" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )
        return Picture(concept, self.artist, svg)


def find_pictures(concepts: Sequence[Concept], sets: Sequence[IconSet]) -> list[Picture]:
    """Match the icons of all artists to concepts; return the pictures by concept and then by artist.

    Sets that come with code points are matched by them. The older ones only have names, which are matched to
    the labels of today, then to every name that the sets with code points know, then to shortcodes.
    """
    index = {concept.code: i for i, concept in enumerate(concepts)}
    labels = {slug(concept.label): concept.code for concept in concepts}
    known: dict[str, Counter[str]] = defaultdict(Counter)
    for icons in sets:
        names = icons.names()
        for code, name in icons.by_code.items():
            known[name][code] += 1
            for alias in names.get(name, ())[1:]:
                known[alias][code] += 1
    shortcodes: dict[str, str] = {}
    for concept in concepts:
        for shortcode in concept.shortcodes:
            shortcodes.setdefault(slug(shortcode), concept.code)

    pictures = []
    for icons in sets:
        drawn: dict[str, str] = dict(icons.by_code)
        if not drawn:
            for icon, aliases in icons.names().items():
                codes = [labels[n] for n in aliases if n in labels]
                codes += [known[n].most_common(1)[0][0] for n in aliases if n in known]
                codes += [shortcodes[n] for n in aliases if n in shortcodes]
                if codes:
                    drawn.setdefault(codes[0], icon)
        pictures += [icons.picture(index[code], name) for code, name in drawn.items() if code in index]
    order = {icons.artist: i for i, icons in enumerate(sets)}
    return sorted(pictures, key=lambda p: (p.concept, order[p.artist]))


def render(picture: Picture) -> np.ndarray:
    """Draw a picture on white: uint8 of shape (SIZE, SIZE, 3)."""
    png = resvg_py.svg_to_bytes(
        svg_string=picture.source, width=SIZE, height=SIZE, background="#ffffff", skip_system_fonts=True
    )
    pixels = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
    if pixels.shape != (SIZE, SIZE, 3):  # an icon that is not square keeps its proportions
        canvas = np.full((SIZE, SIZE, 3), 255, np.uint8)
        top, left = (SIZE - pixels.shape[0]) // 2, (SIZE - pixels.shape[1]) // 2
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = canvas
    return pixels


def grey_thumbnails(pixels: np.ndarray) -> np.ndarray:
    """Shrink pictures to the grey images that the near-duplicate rule compares.

    Args:
        pixels: Pictures, uint8 of shape (pictures, SIZE, SIZE, 3).

    Returns:
        Grey values, uint8 of shape (pictures, GREY, GREY).
    """
    step = SIZE // GREY
    grey = np.empty((len(pixels), GREY, GREY), np.uint8)
    weights = np.array([299, 587, 114])  # whole numbers: the same bytes on every platform
    for i, picture in enumerate(pixels):
        luma = picture.astype(np.int64) @ weights
        total = luma.reshape(GREY, step, GREY, step).sum(axis=(1, 3))
        grey[i] = (total + 500 * step * step) // (1000 * step * step)
    return grey
