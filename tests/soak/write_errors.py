"""Let writes of small runs fail, each save in turn and in each way, and compare with the run whose disk had room."""

from __future__ import annotations

import builtins
import errno
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.log import ARRAYS
from tests.soak.kinds import Kind
from tests.soak.outcome import differences, leftovers, outcome
from tests.soak.victims import Victim

KIND = Kind(("--num_epochs", "2", "--noisy_start", "0.5"))
WAYS = ("write", "fsync", "rename")
"""Where a save fails: after its first bytes, when they are flushed to the disk, when the file gets its name."""
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _AlmostFull(io.FileIO):
    """A file on a disk with room for a few bytes: what is written is cut there, and then refused."""

    room = 512

    def write(self, content: Any) -> int:
        fitting = memoryview(content).cast("B")[: self.room]
        if not fitting:
            raise NO_SPACE
        written = super().write(fitting)
        self.room -= written
        return written


@dataclass
class FailingDisk:
    """Lets the saves fail whose number `fails` names, counted from 1 in the order in which they begin.

    A save is a file that is written under a temporary name.
    """

    way: str
    fails: Callable[[int], bool]
    counted_in: Path | None = None
    """A file for the number of saves that were begun."""
    saves: int = 0

    def install(self) -> None:
        """Replace this process's ways to write."""
        real_open, real_fsync, real_replace = builtins.open, os.fsync, os.replace

        def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode == "wb" and str(file).endswith(".part"):
                self.saves += 1
                if self.counted_in is not None:
                    self.counted_in.write_text(str(self.saves), encoding="utf-8")
                if self._is_due("write"):
                    return io.BufferedWriter(_AlmostFull(file, "w"))
            return real_open(file, mode, *args, **kwargs)

        def fsync(descriptor: int) -> None:
            if self._is_due("fsync"):
                raise NO_SPACE
            real_fsync(descriptor)

        def replace(source: Any, target: Any) -> None:
            if self._is_due("rename"):
                raise NO_SPACE
            real_replace(source, target)

        builtins.open, os.fsync, os.replace = open_, fsync, replace  # type: ignore[assignment]

    def _is_due(self, way: str) -> bool:
        return way == self.way and self.fails(self.saves)


def fail_writes(data: Path, folder: Path, stride: int, say: Callable[[str], None]) -> bool:
    """Let every `stride`-th save fail in a run of its own, and many saves of one run; tell whether all ended well."""
    started = time.monotonic()
    folder.mkdir()
    counting = FailingDisk(WAYS[0], lambda number: False, folder / "saves")
    clean = Victim(KIND.argv(data, folder / "clean"), folder / "clean's notes", before=counting.install)
    assert clean.wait() == 0, clean.said()
    expected = outcome(next((folder / "clean").iterdir()))
    saves = int((folder / "saves").read_text(encoding="utf-8"))
    say(f"left alone: {saves} saves")
    cases: list[tuple[str, str, Callable[[int], bool]]] = []
    for place, number in enumerate(range(1, saves + 1, stride)):
        ways = WAYS if stride == 1 else (WAYS[place % len(WAYS)],)
        cases += [(f"save {number} of {saves}", way, lambda n, k=number: n == k) for way in ways]
    cases.append(("every second save", WAYS[0], lambda n: n % 2 == 0))
    if stride == 1:
        cases += [("every third save", way, lambda n: n % 3 == 0) for way in WAYS]
        cases.append((f"each of saves 3 to {saves - 2}", WAYS[0], lambda n: 3 <= n <= saves - 2))
    good = 0
    for place, (name, way, fails) in enumerate(cases):
        good += _ends_well(f"{name} fails ({way})", data, folder / str(place), FailingDisk(way, fails), expected, say)
    say(f"{good} of {len(cases)} runs with failing writes end as the clean one, {time.monotonic() - started:.0f} s")
    return good == len(cases)


def _ends_well(
    name: str, data: Path, folder: Path, disk: FailingDisk, expected: dict[str, Any], say: Callable[[str], None]
) -> bool:
    """Let a run meet a failing disk, resume it if that ended it, and compare."""
    output, said = folder / "output", []
    victim = Victim(KIND.argv(data, output), folder / "notes", before=disk.install)
    code = victim.wait()
    said += victim.said()
    if code == 2:
        again = Victim(KIND.argv(data, output), folder / "notes again")
        code = again.wait()
        said += again.said()
    told = [line for line in said if "cannot be written" in line]
    how = "went on" if victim.code == 0 else "ended with one line and was resumed"
    problems = [f"exit code {code}"] if code else compared(next(output.iterdir()), expected)
    problems += [] if told else ["it said nothing"]
    problems += ["a traceback"] if any(line.startswith("Traceback") for line in said) else []
    if problems:
        say(f"FAIL: {name}: {', '.join(problems)}; it said: {' / '.join(said[-4:])}")
        return False
    say(f"{name}: {how}; {told[0].replace(str(output), 'output')}")
    return True


def compared(folder: Path, expected: dict[str, Any]) -> list[str]:
    """Return what differs; arrays of divisions that are not there do not count, as a run goes on without them."""
    found = outcome(folder)
    wanted = {name: value for name, value in expected.items() if name in found or not name.startswith(ARRAYS)}
    return differences(found, wanted) + leftovers(folder)
