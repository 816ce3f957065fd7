"""Tables and JSON from files that people made: UTF-8, with or without a byte-order mark, line ends of any system."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import InputError
from runtime.files import kind_of_file, parse_json


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, less a byte-order mark.

    Raises:
        InputError: it cannot be read, is of another kind, or is not UTF-8.
    """
    if kind := kind_of_file(path):
        raise InputError(f"{path} {kind}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV or TSV with their line numbers, cells without space around them, empty rows left out.

    Raises:
        InputError: it cannot be read, or a quote does not end.
    """
    text = read_text(path)
    first = text.partition("\n")[0]
    is_tsv = path.suffix.lower() == ".tsv"
    separator = "\t" if is_tsv else "|" if "|" in first and "," not in first else ","
    lines = io.StringIO(text, newline="")
    if separator == ",":
        reader = csv.reader(lines, strict=True)
    else:
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is no CSV: {error}") from None


def read_json(path: Path) -> Any:
    """Return a JSON file's content.

    Raises:
        InputError: it cannot be read or is not JSON.
    """
    text = read_text(path)
    try:
        return parse_json(text.encode())
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
