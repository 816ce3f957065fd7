"""The readers on mutated files, a short part of `python -m tests.fuzz`; and that the fuzzer sees what is wrong."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from runtime.errors import InputError
from tests.fuzz import __main__ as fuzz
from tests.fuzz.mutations import mutated
from tests.fuzz.readers import Prepared, Reader, torch_bytes
from tests.fuzz.tool_readers import READERS

INPUTS, SEED = 120, 5
SAMPLE = b"a line\nanother\n"


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_refused_in_one_line(name: str) -> None:
    reader = READERS[name]
    inputs = INPUTS // reader.cost
    outcome = fuzz.run(reader, inputs, SEED)
    assert [crash.what for crash in outcome.crashes] == []
    assert outcome.inputs == inputs and outcome.accepted


def fake(read: Callable[[Path], object], inputs: int = 6) -> fuzz.Outcome:
    """Fuzz a reader of lines."""
    return fuzz.run(Reader("fake", "x.txt", "text", lambda folder: Prepared([SAMPLE], read)), inputs, 0)


def only(error: Exception) -> Callable[[Path], object]:
    """Return a reader that takes valid files, and raises `error` for all others."""

    def read(path: Path) -> None:
        if path.read_bytes() != SAMPLE:
            raise error

    return read


def test_a_reader_without_faults_has_no_crash() -> None:
    outcome = fake(only(InputError("x.txt line 3 is no good")), 40)
    assert outcome.crashes == [] and outcome.refused > 20 and outcome.inputs == 40
    assert list(outcome.lines.values()) == ["x.txt line 3 is no good"]


def test_another_exception_is_a_crash_with_its_input_and_comes_again() -> None:
    outcome = fake(only(KeyError("lost")), 20)
    assert len(outcome.crashes) > 10 and outcome.inputs == 20
    assert outcome.crashes[0].what.startswith("KeyError: 'lost' (__main__.py") and outcome.crashes[0].content != SAMPLE
    assert fake(only(KeyError("lost")), 20).crashes == outcome.crashes


def test_a_refusal_that_does_not_say_where_is_a_crash() -> None:
    assert "does not say where" in fake(only(InputError("line 3 is no good"))).crashes[0].what


def test_a_refusal_of_a_valid_file_is_a_crash() -> None:
    def read(path: Path) -> None:
        raise InputError("x.txt is no good")

    assert [crash.what for crash in fake(read).crashes] == ["a valid file is refused: x.txt is no good"]


def test_what_ends_the_process_is_a_crash_and_the_others_go_on() -> None:
    def read(path: Path) -> None:
        if path.read_bytes() == SAMPLE:
            os.kill(os.getpid(), signal.SIGSEGV)

    found = fake(read)
    assert (found.crashes[0].what, found.crashes[0].content) == ("ends the process by SIGSEGV", SAMPLE)
    assert found.accepted >= 4 and found.inputs == 6


def test_a_hang_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "CPU_SECONDS", 0.2)

    def spin(path: Path) -> None:
        while True:
            pass

    assert [crash.what for crash in fake(spin, 2).crashes] == ["hangs", "hangs"]
    monkeypatch.setattr(fuzz, "WALL_SECONDS", 0.3)
    assert [crash.what for crash in fake(lambda path: time.sleep(60), 1).crashes] == ["hangs"]


def test_too_much_memory_is_a_crash() -> None:
    assert fake(lambda path: bytearray(2 * fuzz.MEMORY), 1).crashes[0].what.startswith("MemoryError")
    assert fake(lambda path: np.ones(2**25), 2).peak > 2**27


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("kind", "sample", "opens"),
    [
        ("json", b'{"a": [1, 2, {"b": null}]}', json.loads),
        ("zip", torch_bytes({"a": [1, 2, 3], "b": "text"}), lambda c: zipfile.ZipFile(io.BytesIO(c)).testzip()),
    ],
)
def test_many_mutations_keep_the_format(kind: str, sample: bytes, opens: Callable[[bytes], object]) -> None:
    """Otherwise nothing but the first check of a reader would ever be met."""
    all_ = {mutated(Random(number), [sample], kind) for number in range(200)}
    opened = 0
    for content in all_:
        with contextlib.suppress(
            ValueError, RecursionError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile
        ):
            opens(content)
            opened += 1
    assert len(all_) > 150 and opened > 60
