"""The readers on mutated files, a short part of `python -m tests.fuzz`; and that the fuzzer sees what is wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import InputError
from tests.fuzz import __main__ as fuzz
from tests.fuzz.readers import READERS, Prepared, Reader

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


def test_another_exception_is_a_crash_with_its_input_and_comes_again() -> None:
    outcome = fake(only(KeyError("lost")), 20)
    assert len(outcome.crashes) > 10 and outcome.inputs == 20
    assert outcome.crashes[0].what.startswith("KeyError: 'lost' (__main__.py") and outcome.crashes[0].content != SAMPLE
    assert fake(only(KeyError("lost")), 20).crashes == outcome.crashes


def test_what_ends_the_process_is_a_crash_and_the_others_go_on() -> None:
    def read(path: Path) -> None:
        if path.read_bytes() == SAMPLE:
            os.kill(os.getpid(), signal.SIGSEGV)

    found = fake(read)
    assert (found.crashes[0].what, found.crashes[0].content) == ("ends the process by SIGSEGV", SAMPLE)
    assert found.accepted >= 4 and found.inputs == 6


def test_a_hang_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)

    def spin(path: Path) -> None:
        while True:
            pass

    assert [crash.what for crash in fake(spin, 2).crashes] == ["hangs", "hangs"]


def test_too_much_memory_is_a_crash() -> None:
    assert fake(lambda path: bytearray(2 * fuzz.MEMORY), 1).crashes[0].what.startswith("MemoryError")
