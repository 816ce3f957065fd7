"""Run a reader on mutated files in a process of its own, with limits on memory and time.

An input is decided by (seed, reader, number). The process tells the number it works on; if it dies, by a signal that
nothing catches or by its limits, that input is a crash, and another process goes on behind it.
"""

from __future__ import annotations

import mmap
import os
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.trial import Reader, try_one

MEMORY = 2**30
"""Bytes beyond what the process has with torch and all else imported."""

CPU_SECONDS, WALL_SECONDS = 10.0, 120.0
"""A reader that takes longer for one input hangs; processor time tells so on a busy machine."""

MOST_LINES = 200
"""Kinds of refusal that are remembered."""


@dataclass
class Crash:
    """An input that was neither read nor refused in a line."""

    number: int
    what: str
    content: bytes


@dataclass
class Outcome:
    """What became of a reader's inputs.

    Attributes:
        inputs: how many.
        accepted: read.
        refused: refused with one line.
        crashes: neither.
        seconds: wall time.
        peak: most memory beyond the start, in bytes.
        lines: an example of each kind of refusal.
    """

    inputs: int
    accepted: int = 0
    refused: int = 0
    crashes: list[Crash] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0
    lines: list[str] = field(default_factory=list)


def _status(name: str) -> int:
    """Return a figure of this process's memory, in bytes."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def _limit() -> int:
    """Set the limits of this process; return its resident memory."""
    size = _status("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # ends the process, in whatever library it hangs
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


class _Board:
    """Memory that a process and its fork share: the number in work, how many were accepted and refused, the peak."""

    LAYOUT = "qqqq"

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, struct.calcsize(self.LAYOUT))

    def write(self, number: int, accepted: int, refused: int, peak: int) -> None:
        self._memory.seek(0)
        self._memory.write(struct.pack(self.LAYOUT, number, accepted, refused, peak))

    def read(self) -> tuple[int, int, int, int]:
        self._memory.seek(0)
        return struct.unpack(self.LAYOUT, self._memory.read(struct.calcsize(self.LAYOUT)))


def _work(reader: Reader, folder: Path, seed: int, numbers: range, board: _Board, report: Path) -> None:
    """Try inputs one after the other; write crashes and new kinds of refusals into `report`."""
    prepared = reader.prepare(folder)
    start, counts = _limit(), {"accepted": 0, "refused": 0, "crash": 0}
    told: set[str] = set()
    with open(report, "a", encoding="utf-8") as lines:
        for number in numbers:
            board.write(number, counts["accepted"], counts["refused"], _status("VmHWM") - start)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
            kind, line = try_one(reader, prepared, folder, seed, number)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            counts[kind] += 1
            if kind == "crash":
                shutil.copyfile(folder / reader.file, report.with_name(f"crash-{number}"))
            short = re.sub(r"\d+", "0", line)[:120]
            if kind == "crash" or (line and short not in told and len(told) < MOST_LINES):
                told.add(short)
                lines.write(f"{kind}\t{number}\t{line}\n")
                lines.flush()
    board.write(numbers.stop, counts["accepted"], counts["refused"], _status("VmHWM") - start)


def _in_a_process(reader: Reader, base: Path, seed: int, numbers: range, board: _Board) -> int:
    """Try inputs in a fork; return how it ended, as `os.waitpid` tells."""
    folder = base / f"from-{numbers.start}"
    folder.mkdir()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(base / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            _work(reader, folder, seed, numbers, board, base / "report")
            code = 0
        except BaseException:
            (base / "fault").write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def run(reader: Reader, inputs: int, seed: int) -> Outcome:
    """Fuzz one reader.

    Args:
        reader: the reader.
        inputs: how many.
        seed: decides them.
    """
    outcome, started, number = Outcome(inputs=inputs), time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        base = Path(name)
        (base / "report").touch()
        while number < inputs:
            board, first = _Board(), number
            status = _in_a_process(reader, base, seed, range(number, inputs), board)
            number, accepted, refused, peak = board.read()
            outcome.accepted += accepted
            outcome.refused += refused
            outcome.peak = max(outcome.peak, peak)
            if os.WIFEXITED(status):
                assert status == 0, f"{reader.name}: {(base / 'fault').read_text(encoding='utf-8')}"
                break
            ended_by = signal.Signals(os.WTERMSIG(status))
            shutil.copyfile(base / f"from-{first}" / reader.file, base / f"crash-{number}")
            is_slow = ended_by in (signal.SIGPROF, signal.SIGALRM)
            with open(base / "report", "a", encoding="utf-8") as lines:
                lines.write(f"crash\t{number}\t{'hangs' if is_slow else f'ends the process by {ended_by.name}'}\n")
            number += 1
        _take_report(base, outcome)
    if outcome.peak > MEMORY:
        outcome.crashes.append(Crash(-1, f"{outcome.peak} bytes of memory", b""))
    outcome.seconds = time.monotonic() - started
    return outcome


def _take_report(base: Path, outcome: Outcome) -> None:
    """Take crashes, with the files that led to them, and examples of refusals."""
    for text in (base / "report").read_text(encoding="utf-8").split("\n"):
        kind, _, rest = text.partition("\t")
        number, _, line = rest.partition("\t")
        if kind == "crash":
            outcome.crashes.append(Crash(int(number), line, (base / f"crash-{number}").read_bytes()))
        elif kind:
            outcome.lines.append(line)
