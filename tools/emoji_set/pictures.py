"""Which picture of which artist shows which concept, its rendering to pixels, its small grey image, and the splits.

Splits hold out concepts and artists, with near-duplicates kept on one side.
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tools.emoji_set.names import Concept, plain_code, read_json
from tools.extract.backbones import LITE0_SIZE

try:
    import resvg_py
except ImportError:  # only the builder's own requirements name it
    resvg_py = None


SIZE, GREY = LITE0_SIZE, 16
"""Pixels of a picture's side, and of a grey image's."""


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


@dataclass(frozen=True)
class SplitRule:
    """How a set is split: pictures of dev, pictures of test, and the text that all shuffling starts from."""

    dev: int
    test: int
    seed: str

    def shuffle_key(self, text: str) -> str:
        """Give a sort key that shuffles, the same on every platform and Python version."""
        return hashlib.sha256(f"{self.seed}:{text}".encode()).hexdigest()


def near_pairs(images: np.ndarray, near: float) -> np.ndarray:
    """Find all near-duplicates.

    Args:
        images: Small images, uint8 of shape (pictures, ...), such as grey images of 16 x 16.
        near: Mean absolute difference, in levels, below which two pictures are twins.

    Returns:
        Pairs of indices (first < second), int64 of shape (pairs, 2).
    """
    # Sums of a few hundred bytes are exact in float32, so the comparison below is exact too.
    flat = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    pairs = []
    for start in range(0, len(flat), 500):
        distance = torch.cdist(flat[start : start + 500], flat, p=1)
        first, second = torch.nonzero(distance < near * flat.shape[1], as_tuple=True)
        first = first + start
        pairs.append(torch.stack([first, second], dim=1)[first < second])
    return torch.cat(pairs).numpy()


def drop_twins(pictures: Sequence[Picture], pairs: np.ndarray) -> set[int]:
    """Choose which pictures, of twins (pairs, 2), to leave out.

    Two kinds go: drawings nearly the same as an earlier artist's of the same concept, and drawings that an
    artist reuses for another concept (one drawing for all families), which no caption can tell apart.
    """
    dropped: set[int] = set()
    for first, second in pairs.tolist():
        one, other = pictures[first], pictures[second]
        if first not in dropped and (one.concept == other.concept or one.source == other.source):
            dropped.add(second)
    return dropped


class Holdout:
    """Chooses held-out pictures one by one, and which training pictures have to go for them.

    Args:
        pictures: All pictures.
        kept: Indices of the pictures of the set; all of them start in the training split.
        pairs: Near-duplicates among all pictures, shape (pairs, 2).
    """

    def __init__(self, pictures: Sequence[Picture], kept: Sequence[int], pairs: np.ndarray) -> None:
        self.pictures = pictures
        self.train = set(kept)
        self.held: dict[int, int] = {}  # concept -> picture
        self.twins: dict[int, set[int]] = {i: set() for i in kept}
        for first, second in pairs.tolist():
            if first in self.train and second in self.train:
                self.twins[first].add(second)
                self.twins[second].add(first)
        self.drawings: dict[int, list[int]] = defaultdict(list)
        for i in kept:
            self.drawings[pictures[i].concept].append(i)
        self.count: Counter[str] = Counter()

    def allowed(self, i: int) -> bool:
        """Tell whether picture `i` can be held out.

        It cannot if it or a near-duplicate of it is held out already, or if the training split would lose the last
        picture of this concept or of one held out before.
        """
        if i not in self.train or not self.twins[i].isdisjoint(self.held.values()):
            return False
        left = self.train - self.twins[i] - {i}
        touched = {self.pictures[j].concept for j in self.twins[i]} & self.held.keys()
        return all(not left.isdisjoint(self.drawings[c]) for c in touched | {self.pictures[i].concept})

    def hold(self, concept: int) -> None:
        """Hold out a picture of a concept, if one can be."""
        options = [i for i in self.drawings[concept] if self.allowed(i)]
        if options:
            best = min(options, key=lambda i: (len(self.twins[i]), self.count[self.pictures[i].artist]))
            self.held[concept] = best
            self.count[self.pictures[best].artist] += 1
            self.train -= self.twins[best] | {best}


def make_splits(
    pictures: Sequence[Picture], codes: Sequence[str], pairs: np.ndarray, rule: SplitRule
) -> dict[str, list[int]]:
    """Split the pictures.

    Concepts with a picture that resembles no other come first, so few training pictures have to be dropped;
    among those, concepts that few artists drew choose first, and the others then even out the artists.

    Args:
        pictures: The pictures, by concept and then by artist.
        codes: What each concept is called, without repetitions.
        pairs: Near-duplicates, shape (pairs, 2).
        rule: How many to hold out, and the seed.

    Returns:
        Indices of the pictures of "train", "dev" and "test", in row order.

    Raises:
        ValueError: Too few concepts can be held out.
    """
    dropped = drop_twins(pictures, pairs)
    wanted = rule.dev + rule.test
    holdout = Holdout(pictures, [i for i in range(len(pictures)) if i not in dropped], pairs)

    def ease(concept: int) -> tuple[int, int, str]:
        twins = [len(holdout.twins[i]) for i in holdout.drawings[concept]]
        return min(twins), twins.count(min(twins)), rule.shuffle_key(codes[concept])

    for concept in sorted(holdout.drawings, key=ease):
        if len(holdout.held) < wanted:
            holdout.hold(concept)
    if len(holdout.held) < wanted:
        raise ValueError(f"only {len(holdout.held)} concepts can be held out, {wanted} are needed")

    def key(i: int) -> str:
        return rule.shuffle_key(f"{codes[pictures[i].concept]}/{pictures[i].artist}")

    held = sorted(holdout.held.values(), key=key)
    return {"train": sorted(holdout.train, key=key), "dev": held[: rule.dev], "test": held[rule.dev :]}
