"""The picture: a PNG of a sensible size that shows what it should; the boundary against a slow search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from tools.filter.filtering import FilterConfig, filter_pairs
from tools.filter.report import BLUE, GREY, ORANGE, SAND, SKY, draw_modes


def two_modes(size: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Return similarities (size,) and which pairs are matched."""
    random = np.random.default_rng(0)
    is_matched = random.random(size) < 0.6
    return np.where(is_matched, random.normal(0.31, 0.035, size), random.normal(0.17, 0.04, size)), is_matched


def share_of(picture: np.ndarray, colour: str) -> float:
    """Return the share of pixels of this colour."""
    return float((np.abs(picture - np.array(to_rgb(colour)) * 255) < 3).all(axis=2).mean())


def draw(path: Path, similarity: np.ndarray, is_matched: np.ndarray | None = None) -> np.ndarray:
    """Filter, draw, return the pixels (height, width, 3)."""
    draw_modes(path, filter_pairs(similarity, FilterConfig(), 0.5), FilterConfig(), is_matched)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size[0] >= 800 and picture.size[1] >= 500
        return np.asarray(picture.convert("RGB"), dtype=np.float64)


def test_bars_and_modes_are_there_and_twice_the_same(tmp_path: Path) -> None:
    similarity, is_matched = two_modes()
    plain, told = draw(tmp_path / "a.png", similarity), draw(tmp_path / "b.png", similarity, is_matched)
    assert share_of(plain, GREY) > 0.1 and share_of(plain, SKY) == share_of(plain, SAND) == 0
    assert share_of(told, SKY) > share_of(told, SAND) > 0.03
    assert share_of(told, BLUE) > 0.001 and share_of(told, ORANGE) > 0.001
    draw(tmp_path / "c.png", similarity, is_matched)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
