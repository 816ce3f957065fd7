"""Captions: what a thing is called and single sentences of its description, three for each picture."""

from collections import Counter
from collections.abc import Sequence

from data_utils.set_builder.texts import words
from data_utils.tiles_builder.concepts import Concept
from vocab.sentences import split_sentences

CAPTIONS = 3
SHORTEST, LONGEST = 3, 30
"""Words of a sentence: shorter ones are left out, longer ones are cut off."""


def sentences_of(concept: Concept) -> list[str]:
    """Split a description into sentences.

    Args:
        concept: The concept.

    Returns:
        Its sentences of SHORTEST words or more, cut off after LONGEST.
    """
    parts = [sentence.split() for sentence in split_sentences(concept.description)]
    return [" ".join(part[:LONGEST]) for part in parts if len(part) >= SHORTEST]


def caption_sources(concepts: Sequence[Concept]) -> list[tuple[str, list[str]]]:
    """Find the texts that tell each concept from all others.

    Args:
        concepts: The concepts.

    Returns:
        For each concept its name, "" if another concept has it too, and those of its sentences that no other concept
        has.
    """
    owners: Counter[str] = Counter()
    sentences = [sentences_of(concept) for concept in concepts]
    for concept, own in zip(concepts, sentences, strict=True):
        owners.update({words(text) for text in (concept.name, *own)})
    found = []
    for concept, own in zip(concepts, sentences, strict=True):
        name = concept.name if owners[words(concept.name)] == 1 else ""
        telling = {words(text): text for text in own if owners[words(text)] == 1 and words(text) != words(name)}
        found.append((name, list(telling.values())))
    return found


def captions_of(concept: Concept, name: str, sentences: Sequence[str], turn: int) -> list[str]:
    """Choose the captions of one picture.

    Args:
        concept: What it shows.
        name: Its name if no other concept has it, else "".
        sentences: The sentences that no other concept has.
        turn: Which of the concept's pictures it is; the pictures take turns in the sentences.

    Returns:
        CAPTIONS distinct captions: the name, one sentence, and the name with the same or another sentence. Without a
        name of its own its place is taken by name and sentence. [] if there are too few sentences for that.
    """
    if len(sentences) < (1 if name else 2):
        return []
    first, second = sentences[turn % len(sentences)], sentences[(turn + 1) % len(sentences)]
    return [name or f"{concept.name}. {first}", first, f"{concept.name}. {second}"]
