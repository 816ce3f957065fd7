"""Mutations of a file's bytes and of its lines, drawn from a seeded generator; those of formats are in `formats`.

A mutated file is a valid one, or two spliced together, after a few mutations one upon the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator

from tests.fuzz.formats import FORMATS

MAGIC = (
    *(
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"\x89HDF\r\n\x1a\n",
        b"\x80\x02",
        b"\x80\x05",
        b"\x1f\x8b\x08",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xff",
        b"\x00",
        b"\x00" * 8,
        b"\x1b[2J",
        b"\r",
        b"\n",
        b"\t",
        b'"',
        b"\\",
        b"@",
        b"#",
    ),
    *(b"{", b"[", b"}", b"]", b",", b":", b"null", b"NaN", b"Infinity", b"\\ud800", b"\xed\xa0\x80", b"[" * 3000),
)
"""What means something to one reader or another."""

HUGE = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 10**15, 2**63 - 1, 2**64 - 1)
"""Sizes and counts on the edges of integer types, and far beyond what there is."""

NUMBERS = (
    *(
        "0",
        "1",
        "-1",
        "1.5",
        "1e5",
        "1e308",
        "1e999",
        "-1e999",
        "nan",
        "NaN",
        "inf",
        "-Infinity",
        "0x10",
        "1_0",
        "٣",
        "²",
    ),
    *(
        "2147483648",
        "1000000000000000",
        "-9223372036854775809",
        "9" * 30,
        "9" * 400,
        "9" * 5000,
        "",
        "true",
        "null",
        '"x"',
    ),
)
"""What may stand where a number was."""

LARGEST = 2**24
"""Bytes of an input."""

Mutator = Callable[[Generator, bytes], bytes]


def _cut(random: Generator, content: bytes) -> tuple[int, int]:
    """Return the ends of a block, mostly a short one."""
    start = int(random.integers(0, len(content) + 1))
    length = int(random.integers(0, len(content) + 1) if random.random() < 0.2 else random.integers(0, 33))
    return start, min(len(content), start + length)


def flip(random: Generator, content: bytes) -> bytes:
    """Flip a few bits."""
    if not content:
        return content
    changed = bytearray(content)
    for place in random.integers(0, len(changed), int(random.integers(1, 9))):
        changed[place] ^= 1 << int(random.integers(0, 8))
    return bytes(changed)


def truncate(random: Generator, content: bytes) -> bytes:
    """Cut the end off."""
    return content[: int(random.integers(0, len(content) + 1))]


def duplicate(random: Generator, content: bytes) -> bytes:
    """Repeat a block, sometimes often."""
    start, end = _cut(random, content)
    times = int(random.choice((1, 2, 500))) if end - start < 64 else 1
    return content[:end] + content[start:end] * times + content[end:]


def remove(random: Generator, content: bytes) -> bytes:
    """Take a block out."""
    start, end = _cut(random, content)
    return content[:start] + content[end:]


def swap(random: Generator, content: bytes) -> bytes:
    """Let two blocks that touch change places."""
    start, end = _cut(random, content)
    middle = int(random.integers(start, end + 1))
    return content[:start] + content[middle:end] + content[start:middle] + content[end:]


def insert(random: Generator, content: bytes) -> bytes:
    """Put a magic number or a character that means something in."""
    place = int(random.integers(0, len(content) + 1)) if random.random() < 0.8 else 0
    return content[:place] + MAGIC[random.integers(len(MAGIC))] + content[place:]


def overwrite(random: Generator, content: bytes) -> bytes:
    """Write a huge or negative integer of 1, 2, 4 or 8 bytes over what is there."""
    width = int(random.choice((1, 2, 4, 8)))
    if len(content) < width:
        return content
    value = HUGE[random.integers(len(HUGE))] % 256**width
    if random.random() < 0.2:
        value = 256**width - max(value, 1)
    place = int(random.integers(0, len(content) - width + 1))
    return content[:place] + value.to_bytes(width, random.choice(("little", "big"))) + content[place + width :]


def renumber(random: Generator, content: bytes) -> bytes:
    """Replace a number that is written in digits."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[:65536]))
    if not found:
        return overwrite(random, content)
    match = found[random.integers(len(found))]
    return content[: match.start()] + NUMBERS[random.integers(len(NUMBERS))].encode() + content[match.end() :]


def relined(random: Generator, content: bytes) -> bytes:
    """Drop, repeat, swap, join, empty or lengthen lines, or change how all of them end."""
    lines = content.split(b"\n")
    a, b = (int(k) for k in random.integers(0, len(lines), 2))
    match int(random.integers(0, 9)):
        case 0:
            del lines[a]
        case 1:
            lines.insert(b, lines[a])
        case 2:
            lines[a], lines[b] = lines[b], lines[a]
        case 3:
            lines[a : a + 2] = [b" ".join(lines[a : a + 2])]
        case 4:
            lines[a] = b""
        case 5:
            lines[a] = lines[a] * (2000 if len(lines[a]) < 4096 else 2)
        case 6:
            return b"\r\n".join(lines)
        case 7:
            return b"\r".join(lines)
        case 8:
            lines[a] = lines[b] + b"\x0b\x1c\xc2\x85\xe2\x80\xa8" + lines[a]
    return b"\n".join(lines)


def refielded(random: Generator, content: bytes) -> bytes:
    """Drop, repeat, swap or replace fields of a line, at one of the usual separators."""
    lines = content.split(b"\n")
    k = int(random.integers(0, len(lines)))
    separator = (b"\t", b",", b" ", b"|")[random.choice(4, p=(0.4, 0.3, 0.2, 0.1))]
    fields = lines[k].split(separator)
    a, b = (int(n) for n in random.integers(0, len(fields), 2))
    match int(random.integers(0, 5)):
        case 0:
            del fields[a]
        case 1:
            fields.insert(b, fields[a])
        case 2:
            fields[a], fields[b] = fields[b], fields[a]
        case 3:
            fields[a] = NUMBERS[random.integers(len(NUMBERS))].encode()
        case 4:
            fields[a] = MAGIC[random.integers(len(MAGIC))]
    lines[k] = separator.join(fields)
    return b"\n".join(lines)


BYTES: tuple[Mutator, ...] = (flip, truncate, duplicate, remove, swap, insert, overwrite, renumber)
LINES: tuple[Mutator, ...] = (relined, refielded, renumber, insert)


def splice(random: Generator, first: bytes, second: bytes) -> bytes:
    """Join the beginning of one file to the end of another."""
    return first[: int(random.integers(0, len(first) + 1))] + second[int(random.integers(0, len(second) + 1)) :]


def mutate(random: Generator, samples: Sequence[bytes], kind: str) -> bytes:
    """Return a mutated file.

    Args:
        random: decides everything.
        samples: valid files.
        kind: what they are, for mutations that keep the format: a key of `FORMATS`, `text`, or `bytes`.
    """
    content = samples[int(random.integers(len(samples)))]
    if random.random() < 0.08:
        content = splice(random, content, samples[int(random.integers(len(samples)))])
    for _ in range(min(int(random.geometric(0.5)), 6)):
        content = _step(random, content, kind)[:LARGEST]
    return content


def _step(random: Generator, content: bytes, kind: str) -> bytes:
    draw = random.random()
    if kind in FORMATS and draw < 0.6:
        try:
            return FORMATS[kind](random, content, lambda r, c: _step(r, c, "bytes"))
        except Exception:  # mutated before, it need not be of the format any more
            pass
    if kind in ("text", "args", "json") and draw < 0.85:
        return LINES[random.integers(len(LINES))](random, content)
    return BYTES[random.integers(len(BYTES))](random, content)


def generator(seed: int, reader: str, number: int) -> Generator:
    """Return the generator of one input: the same seed, reader and number give the same input on every machine."""
    return np.random.default_rng([seed, number, *reader.encode()])
