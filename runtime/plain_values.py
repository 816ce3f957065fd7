"""Nested plain values that somebody else wrote, looked at before anything walks through them.

A few bytes of JSON can nest deeper than a recursive function can follow. A pickle can hold a list that contains itself,
or lists of the same lists whose text would be longer than any disk. Both can hold numbers that no float can hold, and
texts with half a character, which no file and no terminal takes.
"""

from __future__ import annotations

from argparse import Namespace  # as a stored type; no command line is read here
from typing import Any

DEEPEST = 64
MOST = 5_000_000
"""Lists and dicts, counted as often as they are met."""
LARGEST = 2**1000
"""Whole numbers stay below."""

_INNER = (dict, list, tuple, Namespace)


def check_plain(content: Any) -> None:
    """Look at all values in lists, tuples, dicts and stored options, keys and names too.

    Raises:
        ValueError: something is too deep, too much, too large, or no text; in words, without the file's name.
    """
    level, met = [[content]], 0
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for node in level:
            values = vars(node) if isinstance(node, Namespace) else node
            for value in (*values, *values.values()) if isinstance(values, dict) else values:
                if isinstance(value, _INNER):
                    inner.append(value)
                else:
                    _check_one(value)
            if met + len(inner) > MOST:
                raise ValueError(f"it holds more than {MOST} lists")
        if not inner:
            return
        level, met = inner, met + len(inner)
    raise ValueError(f"it nests deeper than {DEEPEST} levels")


def _check_one(value: Any) -> None:
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError("it holds a text with half a character (one of U+D800 to U+DFFF alone)") from None
    elif isinstance(value, int) and abs(value) >= LARGEST:
        raise ValueError("it holds a number of more than 300 digits")
