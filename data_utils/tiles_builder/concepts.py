"""The concepts of the set: things of the game with a name and a description."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_utils.set_builder.sources import read_json
from data_utils.set_builder.texts import plain

ITEMS = (
    *("ammo", "armor", "battery", "bionic_item", "book", "comestible", "engine", "generic", "gun", "gunmod"),
    *("magazine", "pet_armor", "tool", "tool_armor", "toolmod", "wheel"),
)
FAMILIES = {"monster": "", "terrain": "", "furniture": "", "vehicle_part": "vp_", **dict.fromkeys(ITEMS, "")}
"""For each kind of thing, how its tile's name begins before its own."""
MOST_ANCESTORS = 20
"""A thing that copies from one that copies from it has no end."""


@dataclass(frozen=True)
class Concept:
    """One thing of the game.

    Attributes:
        code: Name of its tile, such as "mon_zombie" or "t_floor".
        name: What the game calls it, in plain letters.
        description: What the game says about it, in plain letters.
        kind: Such as "monster", "terrain", "armor".
    """

    code: str
    name: str
    description: str
    kind: str


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the entries of all JSON files.

    Args:
        folder: Folder of the files and of folders of them.

    Yields:
        Each entry, in the order of the files' paths.
    """
    for path in sorted(folder.rglob("*.json")):
        content = read_json(path)
        yield from (e for e in (content if isinstance(content, list) else [content]) if isinstance(e, dict))


def text_of(value: Any) -> str:
    """Return a text of the game, which may stand in a dictionary beside its plural.

    Args:
        value: A text, {"str": text, ...} or {"str_sp": text}.

    Returns:
        The text in plain letters without colours and the like, "" if there is none.
    """
    if isinstance(value, dict):
        value = value.get("str", value.get("str_sp"))
    return plain(re.sub(r"<[^>]*>", " ", value)) if isinstance(value, str) else ""


def load_concepts(folder: Path) -> list[Concept]:
    """Read the things of the game that have a name and a description, their own or inherited ones.

    Args:
        folder: The game's JSON files.

    Returns:
        The concepts by their code.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries(folder):
        kind = str(entry.get("type")).lower()
        names = entry.get("id", entry.get("abstract", []))
        if kind in FAMILIES:
            for name in names if isinstance(names, list) else [names]:
                found[_family(kind), name] = entry

    def inherited(family: str, entry: dict[str, Any], field: str) -> str:
        for _ in range(MOST_ANCESTORS):
            if field in entry or (family, entry.get("copy-from")) not in found:
                break
            entry = found[family, entry["copy-from"]]
        return text_of(entry.get(field))

    concepts = {}
    for (family, name), entry in found.items():
        kind = entry["type"].lower()
        code = FAMILIES[kind] + name
        texts = inherited(family, entry, "name"), inherited(family, entry, "description")
        if "abstract" not in entry and all(texts):
            concepts[code] = Concept(code, *texts, kind)
    return sorted(concepts.values(), key=lambda concept: concept.code)


def _family(kind: str) -> str:
    """Return what shares its names with a kind: all items do."""
    return "item" if kind in ITEMS else kind
