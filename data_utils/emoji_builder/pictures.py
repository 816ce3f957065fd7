"""Which picture of which artist shows which concept, and its rendering to pixels."""

import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from data_utils.emoji_builder.concepts import Concept, plain_code
from data_utils.set_builder.drawings import SIZE
from data_utils.set_builder.sources import read_json


@dataclass(frozen=True)
class Picture:
    """One drawing of one concept.

    Attributes:
        concept: Index of the concept.
        artist: Name of the artist.
        source: The drawing as an SVG document.
    """

    concept: int
    artist: str
    source: str


def slug(text: str) -> str:
    """Spell a name as icon sets do.

    Args:
        text: Such as "piñata" or "man’s shoe".

    Returns:
        Such as "pinata" or "mans-shoe".
    """
    plain = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(c for c in plain if not unicodedata.combining(c) and c not in "'’“”")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


class IconSet:
    """One artist's icons, their other names and, where the package has them, their code points."""

    def __init__(self, artist: str, package: Path) -> None:
        """Read the icon set.

        Args:
            artist: Name of the artist.
            package: The unpacked package.
        """
        data = read_json(package / "icons.json")
        chars = package / "chars.json"
        self.artist = artist
        self.icons: dict[str, dict[str, Any]] = data["icons"]
        self.aliases: dict[str, dict[str, Any]] = data.get("aliases", {})
        self.size: tuple[float, float] = (data["width"], data["height"])
        found = read_json(chars) if chars.exists() else {}
        self.by_code: dict[str, str] = {plain_code(code): name for code, name in found.items()}

    def names(self) -> dict[str, list[str]]:
        """List all names of each icon.

        Returns:
            For each icon its own name, then its aliases, without those that mirror it.
        """
        names = {name: [name] for name in self.icons}
        for alias, entry in self.aliases.items():
            if set(entry) == {"parent"} and entry["parent"] in names:
                names[entry["parent"]].append(alias)
        return names

    def picture(self, concept: int, name: str) -> Picture:
        """Make the picture of one icon.

        Args:
            concept: Index of the concept that it shows.
            name: Name of the icon.

        Returns:
            The picture.
        """
        icon = self.icons[name]
        width, height = icon.get("width", self.size[0]), icon.get("height", self.size[1])
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{SIZE}" height="{SIZE}" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )
        return Picture(concept, self.artist, svg)


def find_pictures(concepts: Sequence[Concept], sets: Sequence[IconSet]) -> list[Picture]:
    """Match the icons of all artists to concepts.

    Sets that come with code points are matched by them. The older ones only have names, which are matched to
    the labels of today, then to every name that the sets with code points know, then to shortcodes.

    Args:
        concepts: The concepts.
        sets: The icon sets.

    Returns:
        The pictures, by concept and then by artist.
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
    """Draw one picture on white.

    Args:
        picture: The picture.

    Returns:
        Pixels, uint8 of shape (SIZE, SIZE, 3).
    """
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
