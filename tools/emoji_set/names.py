"""What the set is made from, its concepts, base emoji, and five captions a picture from what people called them.

Packages have pinned versions; authors and licences are in the set's LICENSES. Families that captions cannot tell apart
are left out: flags, clock faces, keycaps, boxed letters.
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """A package on npm and its pinned version."""

    package: str
    version: str


# The order matters: it numbers the artists, and of two twin pictures the earlier artist's is kept.
ARTISTS: dict[str, Source] = {
    "noto": Source("@iconify-json/noto", "1.2.9"),
    "twemoji": Source("@iconify-json/twemoji", "1.2.5"),
    "fluent-emoji-flat": Source("@iconify-json/fluent-emoji-flat", "1.2.6"),
    "noto-v1": Source("@iconify-json/noto-v1", "1.2.5"),
    "emojione": Source("@iconify-json/emojione", "1.2.3"),
}
NAMES = Source("emojibase-data", "17.0.0")


def fetch(source: Source, work: Path) -> Path:
    """Fetch and unpack one npm package, unless the work folder holds it already.

    Args:
        source: The package.
        work: Folder for downloaded files.

    Returns:
        The folder with the package's files.

    Raises:
        ValueError: `npm pack` is missing or fails.
    """
    stem = f"{source.package.lstrip('@').replace('/', '-')}-{source.version}"
    folder = work / stem
    if not (folder / "package" / "package.json").exists():
        archive = work / f"{stem}.tgz"
        if not archive.exists():
            package = f"{source.package}@{source.version}"
            try:
                subprocess.run(["npm", "pack", "--silent", package], cwd=work, check=True, stdout=subprocess.DEVNULL)
            except (OSError, subprocess.CalledProcessError) as error:
                raise ValueError(f"cannot fetch {package} with npm: {error}") from error
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return folder / "package"


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
LEFT_OUT = ("keycap", "alphanum")  # subgroups
CLOCK_FACES = {f"{code:x}" for code in range(0x1F550, 0x1F568)}
CAPTIONS = 5
POOL = 12  # captions of a concept beside its label, from which its pictures take turns
COMMON_TAG = 3  # a single word that tags more concepts than this names none of them


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
    """Lower-case code points and drop the variation selector, which artists use differently: "2764-FE0F" is "2764"."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def _load_shortcodes(package: Path) -> dict[str, list[str]]:
    """Return the English shortcodes of each code without repetitions, in the order of the sources' file names."""
    codes: dict[str, list[str]] = {}
    for language in ("en", "en-gb"):
        for path in sorted((package / language / "shortcodes").glob("*.json")):
            for hexcode, value in read_json(path).items():
                known = codes.setdefault(plain_code(hexcode), [])
                found = [value] if isinstance(value, str) else value
                known.extend(code for code in found if code not in known)
    return codes


def load_concepts(package: Path) -> list[Concept]:
    """Read the concepts from the unpacked package emojibase-data, in Unicode's order."""
    subgroups: dict[str, str] = read_json(package / "meta" / "groups.json")["subgroups"]
    british: dict[str, dict[str, Any]] = {e["hexcode"]: e for e in read_json(package / "en-gb" / "data.json")}
    shortcodes = _load_shortcodes(package)
    entries = [e for e in read_json(package / "en" / "data.json") if e.get("group") in GROUPS]
    concepts = []
    for entry in sorted(entries, key=lambda e: e["order"]):
        code, subgroup = plain_code(entry["hexcode"]), subgroups[str(entry["subgroup"])]
        if subgroup in LEFT_OUT or code in CLOCK_FACES:
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


def plain(text: str) -> str:
    """Write a name in lower-case ASCII: "Japanese “here” button" is 'japanese "here" button', "piñata" is "pinata"."""
    for fancy, simple in (("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("–", "-")):
        text = text.replace(fancy, simple)
    text = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode("ascii")
    return " ".join(text.split())


def words(text: str) -> str:
    """Reduce a caption to its letters and digits: captions with the same words are the same."""
    return " ".join(re.findall(r"[a-z0-9]+", text))


def unique(texts: Sequence[str], by_order: bool) -> list[str]:
    """Keep the first of captions with the same words; `by_order` counts those in another order as others."""
    first: dict[tuple[str, ...], str] = {}
    for text in texts:
        key = words(text).split()
        first.setdefault(tuple(key if by_order else sorted(key)), text)
    return list(first.values())


def names_of(concept: Concept) -> list[str]:
    """Return the British name and the shortcodes as words, without the label, repetitions and mere numbers."""
    names = [plain(concept.british), *(plain(re.sub(r"[_-]+", " ", code)) for code in concept.shortcodes)]
    label = words(plain(concept.label))
    return [n for n in unique(names, by_order=True) if words(n) != label and re.search("[a-z]", n)]


def phrases_of(concept: Concept) -> list[str]:
    """Make keyword phrases of a concept from its label and its tags.

    Returns:
        Phrases, the more telling first: the label with two tags, the label with one, keywords alone, and at
        last the label with the name of its Unicode subgroup or group, for concepts with hardly any tags.
    """
    label = plain(concept.label)
    used = set(words(label).split())
    tags = [plain(tag) for tag in concept.tags]
    tags = [tag for tag in dict.fromkeys(tags) if words(tag) and not used.issuperset(words(tag).split())]
    # Neighbours in the alphabet are often forms of one word; half a list apart they say different things.
    half = (len(tags) + 1) // 2
    phrases = [f"{label} {first} {second}" for first, second in zip(tags[:half], tags[half:], strict=False)]
    phrases += [" ".join(tags[i : i + 4]) for i in range(0, len(tags) - 3, 4)]
    phrases += [f"{tag} {label}" for tag in tags]
    names = names_of(concept)
    kinds = [plain(kind.replace("-", " ")) for kind in (concept.subgroup, concept.group)]
    longer = [(tag, name) for tag in tags for name in names]
    longer += [(kind, name) for kind in kinds for name in (label, *names)]
    phrases += [f"{extra} {name}" for extra, name in longer if not {*extra.split()} & {*words(name).split()}]
    leftover = [(name, extra) for name in (label, *names) for extra in (*tags, *kinds)]
    return phrases + [f"{name} {extra}" for name, extra in leftover] + [f"{e} {name}" for name, e in leftover]


def caption_pools(concepts: Sequence[Concept]) -> list[list[str]]:
    """Collect the captions that each concept's pictures may have beside the label.

    Returns:
        For each concept its pool; no caption is in two pools or is another concept's label, and names of one
        word that tag many concepts are left out.

    Raises:
        ValueError: A concept has too few captions.
    """
    labels = Counter(words(plain(concept.label)) for concept in concepts)
    tagged = Counter(words(plain(tag)) for concept in concepts for tag in set(concept.tags))
    owners: dict[str, set[str]] = defaultdict(set)
    for concept in concepts:
        for text in (*names_of(concept), *phrases_of(concept)):
            owners[words(text)].add(concept.code)

    pools = []
    for concept in concepts:
        own = words(plain(concept.label))

        def telling(text: str, own: str = own) -> bool:
            key = words(text)
            return key != own and not labels[key] and len(owners[key]) == 1 and tagged[key] <= COMMON_TAG

        names = [name for name in names_of(concept) if telling(name)]
        phrases = [phrase for phrase in phrases_of(concept) if telling(phrase)]
        # Names and phrases alternate, so that every picture gets some of both.
        longest = max(len(names), len(phrases))
        mixed = [text for i in range(longest) for text in (*names[i : i + 1], *phrases[i : i + 1])]
        # The same words in another order say nothing new: they come last, for concepts with little else.
        fresh = unique(mixed, by_order=False)
        pool = unique([*fresh, *mixed], by_order=True)
        wanted = max(CAPTIONS - 1, min(POOL, len(names) + len(concept.tags)))
        if len(pool) < CAPTIONS - 1:
            raise ValueError(f"{concept.label} ({concept.code}) has only {len(pool) + 1} captions")
        pools.append(pool[: min(wanted, max(CAPTIONS - 1, len(fresh)))])
    return pools


def captions_of(concept: Concept, pool: Sequence[str], turn: int) -> list[str]:
    """Return CAPTIONS captions of a concept's picture, its label first; pictures (`turn`) take turns in the pool."""
    start = turn * (CAPTIONS - 1)
    return [plain(concept.label), *(pool[(start + i) % len(pool)] for i in range(CAPTIONS - 1))]
