"""The concepts of the set: base emoji with their names, without families that captions cannot tell apart."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_utils.set_builder.sources import read_json

# Group 2 (skin tones, hair) and no group (regional letters) are parts of emoji; group 9 holds the flags.
GROUPS: dict[int, str] = {
    0: "smileys-emotion",
    1: "people-body",
    3: "animals-nature",
    4: "food-drink",
    5: "travel-places",
    6: "activities",
    7: "objects",
    8: "symbols",
}
KEYCAPS, LETTERS_IN_BOXES = "keycap", "alphanum"
CLOCK_FACES = range(0x1F550, 0x1F568)


@dataclass(frozen=True)
class Concept:
    """One base emoji and everything people call it.

    Attributes:
        code: Code points in hexadecimal without the variation selector, such as "1f600".
        label: English CLDR name.
        british: British CLDR name, often the same.
        tags: CLDR keywords, sorted.
        shortcodes: Shortcodes of all sources, in the order of the sources.
        group: Name of the Unicode group.
        subgroup: Name of the Unicode subgroup.
    """

    code: str
    label: str
    british: str
    tags: tuple[str, ...]
    shortcodes: tuple[str, ...]
    group: str
    subgroup: str


def plain_code(hexcode: str) -> str:
    """Lower-case a code point sequence and drop the variation selector, which artists use differently.

    Args:
        hexcode: Such as "2764-FE0F".

    Returns:
        Such as "2764".
    """
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def is_clock_face(code: str) -> bool:
    """Tell whether a concept is one of the 24 clock faces.

    Args:
        code: Code points of the concept.

    Returns:
        True for a clock face.
    """
    return "-" not in code and int(code, 16) in CLOCK_FACES


def load_shortcodes(package: Path) -> dict[str, list[str]]:
    """Collect the English shortcodes of all sources.

    Args:
        package: Unpacked emojibase-data.

    Returns:
        For each code the shortcodes, without repetitions, in the order of the sources' file names.
    """
    codes: dict[str, list[str]] = {}
    for language in ("en", "en-gb"):
        for path in sorted((package / language / "shortcodes").glob("*.json")):
            for hexcode, value in read_json(path).items():
                known = codes.setdefault(plain_code(hexcode), [])
                found = [value] if isinstance(value, str) else value
                known.extend(code for code in found if code not in known)
    return codes


def load_concepts(package: Path) -> list[Concept]:
    """Read the concepts of the set.

    Args:
        package: Unpacked emojibase-data.

    Returns:
        The concepts in Unicode's order; flags, clock faces, keycaps and boxed letters are left out.
    """
    subgroups: dict[str, str] = read_json(package / "meta" / "groups.json")["subgroups"]
    british: dict[str, dict[str, Any]] = {e["hexcode"]: e for e in read_json(package / "en-gb" / "data.json")}
    shortcodes = load_shortcodes(package)
    entries = [e for e in read_json(package / "en" / "data.json") if e.get("group") in GROUPS]
    concepts = []
    for entry in sorted(entries, key=lambda e: e["order"]):
        code, subgroup = plain_code(entry["hexcode"]), subgroups[str(entry["subgroup"])]
        if subgroup in (KEYCAPS, LETTERS_IN_BOXES) or is_clock_face(code):
            continue
        other = british.get(entry["hexcode"], entry)
        concepts.append(
            Concept(
                code=code,
                label=entry["label"],
                british=other["label"],
                tags=tuple(sorted({*entry.get("tags", ()), *other.get("tags", ())})),
                shortcodes=tuple(shortcodes.get(code, ())),
                group=GROUPS[entry["group"]],
                subgroup=subgroup,
            )
        )
    return concepts
