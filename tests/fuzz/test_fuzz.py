"""The readers on mutated files, a short part of `python -m tests.fuzz`; and that the fuzzer sees what is wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from tests.fuzz import campaign
from tests.fuzz.formats import FORMATS
from tests.fuzz.mutation import generator, mutate
from tests.fuzz.readers import READERS
from tests.fuzz.readers.checkpoints import torch_bytes
from tests.fuzz.trial import Prepared, Reader, content_of

INPUTS, SEED = 120, 5
SAMPLE = b"a line\nanother\n"


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_refused_in_one_line(name: str) -> None:
    reader = READERS[name]
    inputs = INPUTS // reader.cost
    outcome = campaign.run(reader, inputs, SEED)
    assert [(crash.number, crash.what) for crash in outcome.crashes] == []
    assert outcome.accepted + outcome.refused == inputs


def fake(read: Callable[[Path], object]) -> Reader:
    return Reader("fake", "x.txt", "text", lambda folder: Prepared([SAMPLE], read))


def crashes(read: Callable[[Path], object], inputs: int = 6) -> list[tuple[int, str]]:
    return [(crash.number, crash.what) for crash in campaign.run(fake(read), inputs, 0).crashes]


def only(error: Exception) -> Callable[[Path], object]:
    """Return a reader that takes valid files, and raises `error` for all others."""

    def read(path: Path) -> None:
        if path.read_bytes() != SAMPLE:
            raise error

    return read


def test_a_reader_without_faults_has_no_crash() -> None:
    outcome = campaign.run(fake(only(InputError("x.txt line 3 is no good"))), 40, 0)
    assert outcome.crashes == [] and outcome.refused > 20 and outcome.accepted + outcome.refused == 40
    assert outcome.lines == ["x.txt line 3 is no good"]


def test_another_exception_is_a_crash_with_its_input() -> None:
    outcome = campaign.run(fake(only(KeyError("lost"))), 20, 0)
    assert len(outcome.crashes) > 10 and outcome.accepted + len(outcome.crashes) == 20
    first = outcome.crashes[0]
    assert first.what.startswith("KeyError: 'lost' (trial.py") and first.content != SAMPLE
    reader = fake(print)
    assert first.content == content_of(reader, reader.prepare(Path()), 0, first.number)


def test_a_refusal_that_does_not_say_where_is_a_crash() -> None:
    assert "does not say where" in crashes(only(InputError("line 3 is no good")))[0][1]


def test_a_refusal_of_a_valid_file_is_a_crash() -> None:
    def read(path: Path) -> None:
        raise InputError("x.txt is no good")

    assert crashes(read) == [(0, "a valid file is refused: x.txt is no good")]


def test_what_ends_the_process_is_a_crash_and_the_others_go_on() -> None:
    def read(path: Path) -> None:
        if path.read_bytes() == SAMPLE:
            os.kill(os.getpid(), signal.SIGSEGV)

    found = campaign.run(fake(read), 6, 0)
    assert (found.crashes[0].number, found.crashes[0].what) == (0, "ends the process by SIGSEGV")
    assert found.accepted + len(found.crashes) >= 5


def test_a_hang_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "CPU_SECONDS", 0.2)

    def spin(path: Path) -> None:
        while True:
            pass

    assert crashes(spin, 2) == [(0, "hangs"), (1, "hangs")]
    monkeypatch.setattr(campaign, "WALL_SECONDS", 0.3)
    assert crashes(lambda path: time.sleep(60), 1) == [(0, "hangs")]


def test_too_much_memory_is_a_crash() -> None:
    assert crashes(lambda path: bytearray(2 * campaign.MEMORY), 1)[0][1].startswith("MemoryError")
    assert campaign.run(fake(lambda path: np.ones(2**25)), 2, 0).peak > 2**27


def test_inputs_are_decided_by_seed_reader_and_number() -> None:
    def inputs(seed: int, name: str) -> list[bytes]:
        return [mutate(generator(seed, name, number), [SAMPLE], "text") for number in range(30)]

    assert inputs(1, "a") == inputs(1, "a")
    assert inputs(1, "a") != inputs(2, "a") != inputs(2, "b")
    assert len(set(inputs(1, "a"))) > 20


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("kind", "sample", "opens"),
    [
        ("json", b'{"a": [1, 2, {"b": null}]}', json.loads),
        ("zip", torch_bytes({"a": [1, 2, 3], "b": "text"}), lambda c: zipfile.ZipFile(io.BytesIO(c)).testzip()),
    ],
)
def test_a_mutation_of_a_format_keeps_it(kind: str, sample: bytes, opens: Callable[[bytes], object]) -> None:
    """Otherwise nothing but the first check of a reader would ever be met."""
    made = set()
    for number in range(200):
        content = FORMATS[kind](generator(3, kind, number), sample, lambda random, inner: inner[::-1])
        try:
            opens(content)
        except RecursionError:
            continue  # as deep as it was made
        made.add(content)
    assert len(made) > 60
