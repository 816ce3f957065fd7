"""Captions in plain letters, and when two of them are the same."""

import re
import unicodedata
from collections.abc import Sequence


def plain(text: str) -> str:
    """Write a name in lower-case ASCII.

    Args:
        text: Such as "piñata" or "Japanese “here” button".

    Returns:
        Such as "pinata" or 'japanese "here" button'.
    """
    for fancy, simple in (("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("–", "-")):
        text = text.replace(fancy, simple)
    text = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode("ascii")
    return " ".join(text.split())


def words(text: str) -> str:
    """Reduce a caption to its words, to tell whether two captions are the same.

    Args:
        text: A caption.

    Returns:
        Its letters and digits, single spaces between words.
    """
    return " ".join(re.findall(r"[a-z0-9]+", text))


def unique(texts: Sequence[str], by_order: bool) -> list[str]:
    """Drop repeated captions.

    Args:
        texts: The captions.
        by_order: Whether the same words in another order count as another caption.

    Returns:
        The first of each.
    """
    first: dict[tuple[str, ...], str] = {}
    for text in texts:
        key = words(text).split()
        first.setdefault(tuple(key if by_order else sorted(key)), text)
    return list(first.values())
