"""Numbers from text: one a line, or a named column of a CSV file with a header."""

from __future__ import annotations

import csv
import itertools
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runtime.errors import InputError

WORDS = {"true": 1.0, "false": 0.0}
"""Other ways to write a number, in any case."""


def _number(text: str) -> float:
    word = text.strip().lower()
    return WORDS[word] if word in WORDS else float(word)


def _is_name(text: str) -> bool:
    """Tell a column's name from a number, even from a mistyped one."""
    try:
        _number(text)
    except ValueError:
        return text.strip().replace(" ", "_").replace("-", "_").isidentifier()
    return False


def read_column(path: Path, column: str | None) -> np.ndarray:
    """Read numbers (n,), one a line, of the only column or of the named one of a CSV file with a header.

    Raises:
        InputError: not text, several columns and none named, an unknown name, a line without a number.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _column_of(csv.reader(file), path, column)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a text file of numbers: {error}") from None


def _column_of(lines: Iterator[list[str]], path: Path, column: str | None) -> np.ndarray:
    first = next(lines, [])
    has_header = bool(first) and all(_is_name(cell) for cell in first)
    names = [cell.strip() for cell in first] if has_header else []
    if column is not None and column not in names:
        raise InputError(f"{path} has no column {column!r}; its header names: {', '.join(names) or 'none'}")
    if column is None and len(first) > 1:
        raise InputError(f"{path} has {len(first)} columns ({', '.join(names) or 'no header'}); name one: {path}::NAME")
    place = names.index(column) if column is not None else 0
    values, blank = array("d"), None
    for number, cells in enumerate(lines if has_header else itertools.chain([first], lines), start=1 + has_header):
        if not any(cell.strip() for cell in cells):
            blank = blank or number  # blank lines at the end are no pairs, one between others is a hole
            continue
        try:
            values.append(_number(cells[place]) if blank is None else _number(""))
        except (ValueError, IndexError):
            told = "nothing" if blank else repr(",".join(cells)[:40])
            raise InputError(f"{path} line {blank or number} holds {told}, not a number; one pair a line") from None
    return np.array(values)
