"""The parts of the tiles set: concepts, captions, tilesets, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_utils.tiles_builder.captions import CAPTIONS, LONGEST, caption_sources, captions_of, sentences_of
from data_utils.tiles_builder.concepts import Concept, load_concepts, text_of
from data_utils.tiles_builder.pictures import Picture, copied_pairs, enlarge, find_pictures
from data_utils.tiles_builder.tilesets import Tileset, first_sprite
from tests.data_utils.tiny_game import sprite_sheet, write_tileset

RED, BLUE = (255, 0, 0, 255), (0, 0, 255, 255)


def concept(code: str, name: str, description: str, kind: str = "tool") -> Concept:
    return Concept(code, name, description, kind)


def told(folder: Path, *entries: dict[str, Any]) -> dict[str, Concept]:
    """Concepts of a game of these entries, by code."""
    (folder / "a.json").write_text(json.dumps(entries))
    return {c.code: c for c in load_concepts(folder)}


# -- concepts --------------------------------------------------------------------------------------------------------


def test_texts_of_the_game() -> None:
    assert text_of({"str": "Piñata", "str_pl": "piñatas"}) == "pinata"
    assert text_of({"str_sp": "Salt"}) == "salt"
    assert text_of("A <color_red>red</color>\nbrick.") == "a red brick."
    assert text_of(None) == text_of({"ctxt": "x"}) == text_of(["x"]) == ""


def test_things_inherit_what_they_lack(tmp_path: Path) -> None:
    found = told(
        tmp_path,
        {"type": "GENERIC", "id": "a", "copy-from": "b", "name": "Anvil"},
        {"type": "TOOL", "abstract": "b", "copy-from": "c", "name": "base"},
        {"type": "GENERIC", "abstract": "c", "description": "Heavy."},
        {"type": "terrain", "id": "c", "name": "floor", "description": "Flat."},
        {"type": "vehicle_part", "id": "seat", "name": "seat", "description": "Soft."},
        {"type": "furniture", "id": ["f_x", "f_y"], "name": "stool", "description": "Low."},
        {"type": "GENERIC", "id": "loop", "copy-from": "loop", "name": "ring"},
        {"type": "GENERIC", "id": "nothing", "name": "void"},
        {"type": "recipe", "id": "d", "name": "soup", "description": "Hot."},
        {"type": "GENERIC"},
    )
    assert found == {
        "a": Concept("a", "anvil", "heavy.", "generic"),
        "c": Concept("c", "floor", "flat.", "terrain"),
        "vp_seat": Concept("vp_seat", "seat", "soft.", "vehicle_part"),
        "f_x": Concept("f_x", "stool", "low.", "furniture"),
        "f_y": Concept("f_y", "stool", "low.", "furniture"),
    }
    assert list(found) == sorted(found)


# -- captions --------------------------------------------------------------------------------------------------------


def test_sentences_are_cut() -> None:
    own = sentences_of(concept("a", "a", "yum. " + "very " * 50 + "long. it is dr. who's box."))
    assert own == [" ".join(["very"] * LONGEST), "it is dr. who's box."]


def test_what_two_concepts_share_is_no_caption() -> None:
    concepts = [
        concept("a", "hammer", "this drives nails in. it is heavy, too. one more thing here."),
        concept("b", "mallet", "of solid rubber. it is heavy too!"),
        concept("c", "mallet", "of solid wood. made for tents alone."),
        concept("d", "tack hammer", "mallet. this is a hammer. hammer!"),
        concept("e", "nail puller", "nail puller."),
    ]
    assert caption_sources(concepts) == [
        ("hammer", ["this drives nails in.", "one more thing here."]),
        ("", ["of solid rubber."]),
        ("", ["of solid wood.", "made for tents alone."]),
        ("tack hammer", ["this is a hammer."]),
        ("nail puller", []),
    ]


def test_three_captions_take_turns() -> None:
    anvil = concept("a", "anvil", "")
    assert captions_of(anvil, "anvil", ["one."], 4) == ["anvil", "one.", "anvil. one."]
    assert captions_of(anvil, "anvil", ["one.", "two."], 0) == ["anvil", "one.", "anvil. two."]
    assert captions_of(anvil, "anvil", ["one.", "two."], 1) == ["anvil", "two.", "anvil. one."]
    assert captions_of(anvil, "", ["one.", "two."], 1) == ["anvil. two.", "two.", "anvil. one."]
    assert captions_of(anvil, "", ["one."], 0) == captions_of(anvil, "anvil", [], 0) == []
    for name in ("anvil", ""):
        for turn in range(5):
            assert len(set(captions_of(anvil, name, ["one.", "two.", "three."], turn))) == CAPTIONS


# -- tilesets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), ([4, 5], 4), ([{"weight": 1, "sprite": [6, 7]}], 6), ([], None), (None, None), (-1, None), ("x", None)],
)
def test_first_sprite(value: Any, expected: int | None) -> None:
    assert first_sprite(value) == expected


def small_tileset(folder: Path) -> Tileset:
    """Two sheets: 2 x 2 red or empty sprites of 4 x 4, and one tall blue sprite with an offset."""
    first = np.zeros((8, 8, 4), np.uint8)
    first[0:4, 4:8] = RED  # sprite 1 is full
    first[5, 1:3] = RED  # sprite 2 has two pixels
    second = np.zeros((8, 4, 4), np.uint8)
    second[:4] = BLUE
    config = {
        "tile_info": [{"width": 4, "height": 4}],
        "tiles-new": [
            {
                "file": "first.png",
                "tiles": [
                    {"id": "both", "fg": 4, "bg": 1},
                    {"id": ["dots", "many"], "fg": [2, 1]},
                    {"id": "ground", "bg": 1},
                    {"id": "empty", "fg": 0},
                    {"id": "beyond", "fg": 99},
                    {"id": "twice", "fg": 2},
                ],
            },
            {
                "file": "second.png",
                "sprite_width": 4,
                "sprite_height": 8,
                "sprite_offset_y": -4,
                "tiles": [{"id": "twice", "fg": 1}],
            },
            {"file": "none.png", "tiles": [], "ascii": []},
        ],
    }
    write_tileset(folder, {"first.png": first, "second.png": second}, config)
    return Tileset(folder)


def test_tiles_are_drawn(tmp_path: Path) -> None:
    tileset = small_tileset(tmp_path / "small")
    both = tileset.drawing("both", ground=True)
    assert both is not None and both.shape == (8, 4, 4)  # the blue sprite stands above the red ground
    assert (both[:4] == BLUE).all() and (both[4:] == RED).all()
    front = tileset.drawing("both", ground=False)
    assert front is not None and front.shape == (4, 4, 4) and (front == BLUE).all()
    for name in ("dots", "many"):
        dots = tileset.drawing(name, ground=True)
        assert dots is not None and dots.shape == (1, 2, 4) and (dots == RED).all()
    for name in ("ground", "twice"):
        whole = tileset.drawing(name, ground=False)
        assert whole is not None and whole.shape == (4, 4, 4) and (whole == RED).all()
    assert tileset.drawing("empty", ground=True) is None
    assert tileset.drawing("beyond", ground=True) is None


# -- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_of_all_tilesets(tmp_path: Path) -> None:
    tilesets = {"x": small_tileset(tmp_path / "x"), "y": small_tileset(tmp_path / "y")}
    concepts = [
        concept("dots", "", ""),
        concept("both", "", "", "terrain"),
        concept("ground", "", ""),
        concept("no", "", ""),
    ]
    found = find_pictures(concepts, tilesets)
    assert [(p.concept, p.artist) for p in found] == [(1, "x"), (2, "x")]  # two dots show nothing, y draws the same
    assert found[0].pixels.shape == (8, 4, 3) and found[0].front.shape == (4, 4, 3)
    on_nothing = find_pictures([concept("both", "", "", "monster")], tilesets)
    assert on_nothing[0].pixels.shape == (4, 4, 3)


def test_the_size_of_a_drawing_tells_it(tmp_path: Path) -> None:
    flat = np.full((2, 8, 3), 9, np.uint8)
    assert Picture(0, "x", flat, flat).source != Picture(0, "x", flat, flat.reshape(8, 2, 3)).source


def test_enlarging_keeps_squares() -> None:
    small = np.random.RandomState(0).randint(0, 255, (20, 10, 3)).astype(np.uint8)
    large = enlarge(small)
    assert large.shape == (192, 192, 3)
    inside = large[6:186, 51:141]  # nine times as large, in the middle
    assert np.array_equal(inside[4::9, 4::9], small) and np.array_equal(inside[::9, ::9], small)
    outside = large.copy()
    outside[6:186, 51:141] = 255
    assert (outside == 255).all()
    assert np.array_equal(enlarge(large), large)


def test_copies_are_found_within_a_concept() -> None:
    original = sprite_sheet(0, 1, 1, 32)[..., :3]
    scaled, other = original[::2, ::2], sprite_sheet(1, 1, 1, 16)[..., :3]
    shaded = np.clip(original.astype(int) + 30, 0, 255).astype(np.uint8)
    drawn = [(0, original), (0, scaled), (0, other), (0, shaded), (1, original)]
    pictures = [Picture(number, str(k), pixels, pixels) for k, (number, pixels) in enumerate(drawn)]
    assert copied_pairs(pictures).tolist() == [[0, 1], [0, 3], [1, 3]]
    assert copied_pairs(pictures[:1]).shape == (0, 2)
