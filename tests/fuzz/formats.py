"""Mutations that keep a format: what comes out is still JSON, an npy file, an archive with right checksums, ...

So they reach what bytes turned at random do not: a shape that does not fit, a name that is missing, a number that is
none, an archive whose third member is a pickle that asks for something else.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

from tests.fuzz.hdf5_format import hdf5
from training.saved_state import DIGEST, MAGIC

Inner = Callable[[Generator, bytes], bytes]
"""Mutates bytes without knowing what they are."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3.5, 2**31, 2**63, -(2**63), 10**15, 10**25, 10**400, 1e308, float("nan")),
    *(
        float("inf"),
        "",
        "x",
        "0",
        "-1",
        "nan",
        "..",
        "../../x",
        "/etc/passwd",
        "a/b",
        "\0",
        "\ud800",
        "\x1b[31m",
        "x\ny",
    ),
    *([], {}, [[]], [None], {"": None}, [0, 1, 2], ["a"], {"a": 1}, "x" * 5000),
)
"""What may stand where something else was."""

SIZES = (0, 1, -1, 2, 3, 7, 2**31, 2**32, 2**40, 10**15, 2**62, 2**63, 10**25)
TYPES = (
    "<f4",
    ">f4",
    "<f2",
    "<f8",
    "<i8",
    "|u1",
    "|b1",
    "|O",
    "<U4",
    "<U0",
    "|V0",
    "|S3",
    "<c8",
    "<M8[s]",
    "<f16",
    "x",
    "",
)


def _pick(random: Generator, values: tuple[Any, ...] | list[Any]) -> Any:
    return values[int(random.integers(len(values)))]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all values within one."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in _places(child, (*path, key)))]


def change_value(random: Generator, value: Any) -> Any:
    """Change one place of nested lists and dicts: another value, none, twice, under another name, or far deeper."""
    places = _places(value)
    place = _pick(random, places)
    if not place:
        return _pick(random, VALUES) if random.random() < 0.3 else value
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    key = place[-1]
    match int(random.integers(0, 7)):
        case 0 | 1 | 2:
            parent[key] = _pick(random, VALUES)
        case 3:
            del parent[key]
        case 4 if isinstance(parent, dict):
            parent[str(_pick(random, VALUES))] = parent.pop(key)
        case 4:
            parent.insert(key, parent[key])
        case 5:
            for _ in range(int(_pick(random, (1, 2, 3, 400)))):
                parent[key] = [parent[key]] if random.random() < 0.5 else {"a": parent[key]}
        case 6:
            other = value
            for step in _pick(random, places):
                other = other[step]
            parent[key] = json.loads(json.dumps(other))
    return value


def json_text(random: Generator, content: bytes, inner: Inner) -> bytes:
    """Change a JSON text's content."""
    value = change_value(random, json.loads(content))
    if random.random() < 0.03:
        return b"[" * 100_000 + content + b"]" * 100_000
    return json.dumps(value, ensure_ascii=bool(random.random() < 0.7)).encode("utf-8", "surrogatepass")


def npy(random: Generator, content: bytes, inner: Inner) -> bytes:
    """Change an npy file's header: shape, type, order, version, or the text it is written in."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    form = "<H" if version == (1, 0) else "<I"
    (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
    text, data = file.read(length), file.read()
    header = ast.literal_eval(text.decode("latin1"))
    shape = list(header["shape"])
    match int(random.integers(0, 8)):
        case 0 | 1 | 2 if shape:
            shape[random.integers(len(shape))] = _pick(random, SIZES)
        case 3:
            shape = [_pick(random, SIZES) for _ in range(int(random.integers(0, 5)))]
        case 4:
            header["descr"] = _pick(random, (*TYPES, [("a", "<f4")], ["<f4"], ("<f4", (2,)), None, 3))
        case 5:
            header["fortran_order"] = _pick(random, (True, 1, None))
        case 6:
            header[str(_pick(random, ("shape", "descr", "more")))] = _pick(
                random, (None, 3, "x", (1, None), (1.0,), (True, 2, 3))
            )
            return _npy(version, repr(header).encode(), data)
        case 7:
            return _npy(_pick(random, [(1, 0), (2, 0), (3, 0), (9, 9)]), inner(random, text), data)
    return _npy(version, repr({**header, "shape": tuple(shape)}).encode(), data)


def _npy(version: tuple[int, int], text: bytes, data: bytes) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text) % 65536)
    return b"\x93NUMPY" + bytes(version) + length + text + data


def pickled(random: Generator, content: bytes, inner: Inner) -> bytes:
    """Change one operation of a pickle: a number, a text, a name that is asked for, or drop or repeat it."""
    found = []
    file = io.BytesIO(content)
    while file.tell() < len(content):  # one pickle after the other, and then what is none
        try:
            found += [(op.name, value, place) for op, value, place in pickletools.genops(file)]
        except Exception:
            break
    places = [place for _, _, place in found] + [file.tell()]
    number = int(random.integers(len(found)))
    name, value, place = found[number]
    wanted = [k for k, (op, _, _) in enumerate(found) if op.startswith(("BININT", "LONG1", "BINUNICODE", "GLOBAL"))]
    if wanted and random.random() < 0.7:
        number = _pick(random, wanted)
        name, value, place = found[number]
    end = places[number + 1]
    if name.startswith(("BININT", "LONG1")):
        size = int(_pick(random, (*SIZES, int(value or 0) + 1)))
        size = max(-(2**900), min(size, 2**900))
        encoded = size.to_bytes(size.bit_length() // 8 + 1, "little", signed=True)
        new = b"\x8a" + bytes([len(encoded)]) + encoded
    elif name.startswith("BINUNICODE"):
        text = str(_pick(random, (*VALUES, *(str(v) for _, v, _ in found if isinstance(v, str))))).encode(
            "utf-8", "surrogatepass"
        )
        new = b"X" + struct.pack("<I", len(text)) + text
    elif name == "GLOBAL":
        new = (
            b"c"
            + _pick(
                random, [str(v).replace(" ", "\n").encode() for op, v, _ in found if op == "GLOBAL"] + [b"os\nsystem"]
            )
            + b"\n"
        )
    else:
        new = _pick(
            random,
            [b"", content[place:end] * 2, b"N", b")", b"}", b"]", b"K\x07", b"\x88", b"r\xff\xff\xff\x7f", b"R", b"Q"],
        )
    return content[:place] + new + content[end:]


def archive(random: Generator, content: bytes, inner: Inner) -> bytes:
    """Change a zip archive's members: their content, names, number, or how they are packed; checksums are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    kinds = {info: zipfile.ZIP_STORED for info, _ in members}
    k = int(random.integers(len(members)))
    pickles = [n for n, (name, _) in enumerate(members) if name.endswith((".pkl", ".npy"))]
    if pickles and random.random() < 0.7:
        k = _pick(random, pickles)
    name, data = members[k]
    match int(random.integers(0, 9)):
        case 0:
            del members[k]
        case 1:
            members.append((name, data))
        case 2:
            members[k] = (
                _pick(random, ("../" + name, "/" + name, name + "x", "", "data.pkl", "archive/data.pkl")),
                data,
            )
        case 3:
            kinds[name] = zipfile.ZIP_DEFLATED
        case 4:
            kinds[name], members[k] = zipfile.ZIP_DEFLATED, (name, data + b"\0" * 2**21)
        case _:
            mutate = pickled if name.endswith(".pkl") else npy if name.endswith(".npy") else None
            members[k] = (
                name,
                mutate(random, data, inner) if mutate and random.random() < 0.8 else inner(random, data),
            )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as new:
        for name, data in members:
            new.writestr(zipfile.ZipInfo(name or "x"), data, kinds.get(name, zipfile.ZIP_STORED))
    return target.getvalue()


def state(random: Generator, content: bytes, inner: Inner) -> bytes:
    """Change what is behind a run state's checksum, and make the checksum right again."""
    payload = archive(random, content[len(MAGIC) + DIGEST :], inner)
    return MAGIC + hashlib.sha256(payload).digest() + payload


def safetensors(random: Generator, content: bytes, inner: Inner) -> bytes:
    """Change the JSON header of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    header = change_value(random, json.loads(content[8 : 8 + length]))
    text = json.dumps(header).encode()
    return (
        struct.pack("<Q", len(text) if random.random() < 0.9 else _pick(random, SIZES[:9]) % 2**64)
        + text
        + content[8 + length :]
    )


def legacy_torch(random: Generator, content: bytes, inner: Inner) -> bytes:
    """Change a file as torch wrote it before 1.6: pickles one after the other, then numbers."""
    return pickled(random, content, inner)


FORMATS: dict[str, Callable[[Generator, bytes, Inner], bytes]] = {
    "json": json_text,
    "npy": npy,
    "hdf5": hdf5,
    "zip": archive,
    "legacy_torch": legacy_torch,
    "state": state,
    "safetensors": safetensors,
}
"""By what a file is."""
