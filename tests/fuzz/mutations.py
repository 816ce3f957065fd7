"""Mutated files: valid ones changed at a few places, as bytes or so that they keep their format.

What keeps a format reaches further than bytes turned at random: a shape that does not fit, a name that is missing, a
number that is none, an archive whose third member is a pickle that asks for something else. A seeded generator decides;
hypothesis was tried for it: 3 ms an input instead of 0.2, and four inputs in ten had been there before.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import h5py
import numpy as np

from training.checkpointing import DIGEST, MAGIC

LARGEST = 2**24
"""Bytes of an input."""

MEANINGS = [
    *(b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"PK\x05\x06", b"\x89HDF\r\n\x1a\n", b"\x80\x02", b"\x1f\x8b\x08"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\x00" * 8, b"\x1b[2J", b"\r", b"\n", b"\t", b'"', b"\\", b"@", b"#"),
    *(b"{", b"[", b"}", b"]", b",", b":", b"null", b"NaN", b"Infinity", b"\\ud800", b"\xed\xa0\x80", b"[" * 3000),
]
"""What means something to one reader or another."""

SIZES = [0, 1, -1, 2, 3, 127, 128, 255, 256, 65535, 2**31, 2**32, 2**40, 10**15, 2**62, 2**63, 10**25]
"""Sizes and counts on the edges of integer types, and far beyond what there is."""

TEXTS = ["", "x", "..", "../../x", "/etc/passwd", "a/b", "\0", "\ud800", "\x1b[31m", "x\ny", "x" * 5000]
NUMBERS = [*map(str, SIZES), *("1.5", "1e308", "1e999", "nan", "-inf", "-0", "9" * 400, "9" * 5000, "", "true", '"x"')]
VALUES: list[Any] = [
    *(None, True, False, 3.5, -(2**63), 10**400, 1e308, float("nan"), float("inf"), *SIZES, *TEXTS),
    *([], {}, [[]], [None], {"": None}, [0, 1, 2], ["a"], {"a": 1}),
]
"""What may stand where something else was."""

TYPES = ["<f4", ">f4", "<f2", "<f8", "<i8", "|u1", "|b1", "|O", "<U4", "<U0", "|V0", "|S3", "<c8", "<M8[s]", "<f16", ""]
HDF5_TYPES: list[Any] = [
    *("<f4", ">f4", "<f2", "i1", "u1", "<i8", "<u8", "?", "S5", "<c8", [("a", "<f4")], "f16", h5py.string_dtype()),
    *(h5py.vlen_dtype(np.float32), h5py.ref_dtype, h5py.enum_dtype({"a": 1})),
]
SHAPES: list[tuple[int, ...]] = [
    *((), (0,), (3,), (10**15,), (10**15, 2, 3), (2**31, 2**31, 3), (2**40, 2**24), (3, 0, 2), (1, 1), (2, 3, 4, 5)),
    *((10**6, 36, 2048), (1, 2**20, 2**12), (5, 2, 3)),
]
LINKS = [h5py.SoftLink("/features"), h5py.SoftLink("/"), h5py.SoftLink("/no"), h5py.ExternalLink("../etc/passwd", "/")]


def _place(random: Random, length: int) -> int:
    return random.randint(0, max(0, length - 1))


def raw(random: Random, content: bytes) -> bytes:
    """Replace a block, mostly a short one, by nothing, itself several times, turned bits, a number, or what means
    something."""
    start = random.randint(0, len(content))
    block = content[start : start + random.randint(0, 32 if random.random() < 0.8 else len(content))]
    match random.randint(0, 7):
        case 0:
            new = b""
        case 1:
            new = block * random.choice((2, 3, 500 if len(block) < 64 else 2))
        case 2:
            new = block[len(block) // 2 :] + block[: len(block) // 2]
        case 3 | 4:
            new = random.choice(MEANINGS)
            block = block if random.random() < 0.5 else b""
        case 5 | 6:
            width = random.choice((1, 2, 4, 8))
            new = (random.choice(SIZES) % 256**width).to_bytes(width, random.choice(("little", "big")))
            block = content[start : start + width]
        case _:
            turned = bytearray(block)
            for _ in range(random.randint(1, 8) if block else 0):
                turned[_place(random, len(block))] ^= 1 << random.randint(0, 7)
            new = bytes(turned)
    return content[:start] + new + content[start + len(block) :]


def text(random: Random, content: bytes) -> bytes:
    """Drop, repeat or replace a line of a text, or a field of a line."""
    separator = random.choice((b"\n", b"\n", b"\t", b",", b" ", b"|"))
    fields = content.split(separator)
    k = _place(random, len(fields))
    new = [fields[k] * 2000, b"\x0b\x1c\xc2\x85\xe2\x80\xa8" + fields[k], random.choice(MEANINGS)]
    new += [str(random.choice(NUMBERS)).encode() for _ in range(2)]
    fields[k : k + 1] = random.choice(([], [fields[k]] * 2, [random.choice(new)], [random.choice(new)]))
    return separator.join(fields)


def _containers(value: Any) -> list[Any]:
    """Return all lists and dicts within nested ones that hold something."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return ([value] if children else []) + [inner for child in children for inner in _containers(child)]


def _changed(random: Random, value: Any) -> Any:
    """Change one place of nested lists and dicts: another value, none, under another name, or far deeper."""
    parent = random.choice(_containers([value]))
    key = random.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    match random.randint(0, 5):
        case 0 | 1 | 2:
            parent[key] = copy.deepcopy(random.choice(VALUES))
        case 3:
            del parent[key]
        case 4 if isinstance(parent, dict):
            parent[random.choice(TEXTS)] = parent.pop(key)
        case _:
            for _ in range(random.choice([1, 2, 400])):
                parent[key] = [parent[key]]
    return value


def json_text(random: Random, content: bytes) -> bytes:
    """Change a JSON text's content."""
    value = _changed(random, json.loads(content))
    return json.dumps(value, ensure_ascii=(random.random() < 0.5)).encode("utf-8", "surrogatepass")


def npy(random: Random, content: bytes) -> bytes:
    """Change an npy file's header: shape, type, order, version, or the text it is written in."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    form = "<H" if version == (1, 0) else "<I"
    (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
    written, data = file.read(length), file.read()
    header = ast.literal_eval(written.decode("latin1"))
    match random.randint(0, 5):
        case 0 | 1:
            shape = [*header["shape"], 1]
            shape[_place(random, len(shape))] = random.choice(SIZES)
            header["shape"] = tuple(shape[: len(shape) - (random.random() < 0.5)])
        case 2:
            header["descr"] = random.choice([*TYPES, [("a", "<f4")], ["<f4"], ("<f4", (2,)), None, 3])
        case 3:
            header["fortran_order"] = random.choice([True, 1, None])
        case 4:
            header[random.choice(["shape", "more"])] = random.choice([None, 3, "x", (1, None), (1.0,)])
        case 5:
            version = random.choice([(1, 0), (2, 0), (3, 0), (9, 9)])
            return _npy(version, raw(random, written), data)
    return _npy(version, repr(header).encode(), data)


def _npy(version: tuple[int, int], written: bytes, data: bytes) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(written) % 65536)
    return b"\x93NUMPY" + bytes(version) + length + written + data


def pickled(random: Random, content: bytes) -> bytes:
    """Change one operation of a pickle: a number, a text, a name that is asked for, or drop or repeat it."""
    found = []
    file = io.BytesIO(content)
    with suppress(Exception):  # one pickle after the other, and then what is none
        while file.tell() < len(content):
            found += [(op.name, value, place) for op, value, place in pickletools.genops(file)]
    wanted = [k for k, (op, _, _) in enumerate(found) if op.startswith(("BININT", "LONG1", "BINUNICODE", "GLOBAL"))]
    number = random.choice(wanted) if wanted and random.random() < 0.7 else _place(random, len(found))
    name, value, place = found[number]
    end = [*(p for _, _, p in found), file.tell()][number + 1]
    if name.startswith(("BININT", "LONG1")):
        size = random.choice([*SIZES, int(value or 0) + 1])
        encoded = size.to_bytes(size.bit_length() // 8 + 1, "little", signed=True)
        new = b"\x8a" + bytes([len(encoded)]) + encoded
    elif name.startswith("BINUNICODE"):
        other = random.choice([*TEXTS, *(v for _, v, _ in found if isinstance(v, str))])
        encoded = other.encode("utf-8", "surrogatepass")
        new = b"X" + struct.pack("<I", len(encoded)) + encoded
    elif name == "GLOBAL":
        asked = [str(v).replace(" ", "\n").encode() for op, v, _ in found if op == "GLOBAL"]
        new = b"c" + random.choice([*asked, b"os\nsystem"]) + b"\n"
    else:
        operations = [b"N", b")", b"}", b"]", b"K\x07", b"\x88", b"r\xff\xff\xff\x7f", b"R", b"Q"]
        new = random.choice([b"", content[place:end] * 2, *operations])
    return content[:place] + new + content[end:]


def archive(random: Random, content: bytes) -> bytes:
    """Change a zip archive's members: their content, names, number, or how they are packed; checksums are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        members = [(info.filename, old.read(info), zipfile.ZIP_STORED) for info in old.infolist()]
    pickles = [n for n, (name, _, _) in enumerate(members) if name.endswith((".pkl", ".npy"))]
    k = random.choice(pickles) if pickles and random.random() < 0.7 else _place(random, len(members))
    name, data, _ = members[k]
    match random.randint(0, 9):
        case 0 | 1:
            members[k : k + 1] = random.choice(([], [members[k]] * 2, [(name, b"", zipfile.ZIP_STORED)]))
        case 2:
            new = random.choice(["../" + name, "/" + name, name + "x", "x", "data.pkl", "archive/data.pkl"])
            members[k] = (new, data, zipfile.ZIP_STORED)
        case 3:
            members[k] = (name, data + b"\0" * random.choice([0, 2**21]), zipfile.ZIP_DEFLATED)
        case _:
            inner = pickled if name.endswith(".pkl") else npy if name.endswith(".npy") else raw
            members[k] = (name, inner(random, data) if random.randint(0, 4) else raw(random, data), zipfile.ZIP_STORED)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name, data, packed in members:
            file.writestr(zipfile.ZipInfo(name), data, packed)
    return target.getvalue()


def state(random: Random, content: bytes) -> bytes:
    """Change what is behind a run state's checksum, and make the checksum right again."""
    payload = archive(random, content[len(MAGIC) + DIGEST :])
    return MAGIC + hashlib.sha256(payload).digest() + payload


def hdf5(random: Random, content: bytes) -> bytes:
    """Replace one object of an HDF5 file by another: other shape, type, layout, a link, a group, or none."""
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = random.choice(names)
        data = file[name][()] if isinstance(file[name], h5py.Dataset) else None
        del file[name]
        match random.randint(0, 8):
            case 0:
                pass
            case 1:
                file.create_group(name)
            case 2:
                file[name] = random.choice(LINKS)
            case 3:
                file.create_dataset(name, dtype="f4", data=h5py.Empty("f4"))
            case 4 if data is not None and data.ndim:  # as it was, packed in another way
                chunks = tuple(max(1, n // 2) for n in data.shape)
                file.create_dataset(name, data=data, chunks=chunks, compression="gzip", shuffle=True)
            case 5 if data is not None and data.size and data.dtype.kind in "fiu":
                with np.errstate(all="ignore"):
                    data.reshape(-1)[_place(random, data.size)] = random.choice([0, 100, 127])
                file.create_dataset(name, data=data)
            case 6 if data is not None and data.ndim:
                file.create_dataset(name, data=data[: _place(random, len(data) + 1)])
            case _:
                shape = random.choice(SHAPES)
                dtype = random.choice(HDF5_TYPES + ([] if data is None else [data.dtype]))
                is_whole = float(np.prod([float(n) for n in shape])) * 64 < 2**20 and (random.random() < 0.5)
                chunks = None if is_whole else tuple(min(n, 8) or 1 for n in shape) or None
                packed = {"compression": "gzip"} if chunks and (random.random() < 0.5) else {}
                file.create_dataset(name, shape, dtype, chunks=chunks, **packed)
    return buffer.getvalue()


FORMATS: dict[str, tuple[Callable[[Random, bytes], bytes], ...]] = {
    "bytes": (raw,),
    "text": (text, text, text, raw),
    "json": (json_text, json_text, json_text, text, raw),
    "npy": (npy, npy, raw),
    "hdf5": (hdf5, hdf5, raw),
    "zip": (archive, archive, raw),
    "legacy_torch": (pickled, raw),
    "state": (state, state, raw),
    "safetensors": (raw,),
}
"""By what a file is: what changes it, the likelier more than once."""


def mutated(random: Random, samples: Sequence[bytes], kind: str) -> bytes:
    """Return a mutated file of a kind of `FORMATS`: a valid sample, or two spliced, after one to five changes."""
    content = random.choice(samples)
    if random.random() < 0.08:
        other = random.choice(samples)
        content = content[: random.randint(0, len(content))] + other[random.randint(0, len(other)) :]
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
        try:
            content = random.choice(FORMATS[kind])(random, content)[:LARGEST]
        except Exception:  # changed before, it need not be of the format any more
            content = raw(random, content)[:LARGEST]
    return content
