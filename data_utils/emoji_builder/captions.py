"""Captions: names and keyword phrases that people gave to emoji, five for each picture."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from data_utils.emoji_builder.concepts import Concept
from data_utils.set_builder.texts import plain, unique, words

CAPTIONS = 5
POOL = 12  # captions of a concept beside its label, from which its pictures take turns
COMMON_TAG = 3  # a single word that tags more concepts than this names none of them


def names_of(concept: Concept) -> list[str]:
    """List the names of a concept beside its label.

    Args:
        concept: The concept.

    Returns:
        The British name and the shortcodes as words, without repetitions and mere numbers.
    """
    names = [plain(concept.british)]
    for shortcode in concept.shortcodes:
        names.append(plain(re.sub(r"[_-]+", " ", shortcode)))
    label = words(plain(concept.label))
    return [n for n in unique(names, by_order=True) if words(n) != label and re.search("[a-z]", n)]


def phrases_of(concept: Concept) -> list[str]:
    """Make keyword phrases of a concept from its label and its tags.

    Args:
        concept: The concept.

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

    Args:
        concepts: The concepts.

    Returns:
        For each concept its pool; no caption is in two pools or is another concept's label, and names of one
        word that tag many concepts are left out.

    Raises:
        ValueError: If a concept has too few captions.
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
    """Choose the captions of one picture.

    Args:
        concept: What it shows.
        pool: The concept's captions beside its label.
        turn: Which of the concept's pictures it is; the pictures take turns in the pool.

    Returns:
        CAPTIONS distinct captions, the label first.
    """
    start = turn * (CAPTIONS - 1)
    return [plain(concept.label), *(pool[(start + i) % len(pool)] for i in range(CAPTIONS - 1))]
