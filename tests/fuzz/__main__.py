"""Give every reader mutated files; each must be read, or refused with one line that says where.

    python -m tests.fuzz --inputs 10000
    python -m tests.fuzz --readers checkpoint,vocabulary --seed 7

Prints a row for each reader and writes every input that was neither into a folder. --seed decides the inputs: the same
command finds the same crashes. Ends with 1 if there was one. A reader works in a process of its own with limits on
memory and time; if that dies, the input that it had is a crash, and another process goes on behind it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import IO, Any

import torch

from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from runtime.log import table
from tests.fuzz.mutations import mutated
from tests.fuzz.readers import Prepared, Reader
from tests.fuzz.tool_readers import READERS

HEADER = ("reader", "inputs", "accepted", "refused", "crashes", "kinds of refusal", "peak MiB", "seconds")
MEMORY = 2**30
"""Bytes beyond what the process has with torch and all else imported."""

CPU_SECONDS, WALL_SECONDS = 10.0, 120.0
"""A reader that takes longer for one input hangs; processor time tells so on a busy machine."""

LONGEST_LINE = 1000
"""Characters of a refusal."""


@dataclass(frozen=True)
class Crash:
    """An input that was neither read nor refused in a line."""

    what: str
    content: bytes


@dataclass
class Outcome:
    """What became of a reader's inputs; `peak` is in bytes beyond the start, `lines` has a refusal of each kind."""

    accepted: int = 0
    refused: int = 0
    crashes: list[Crash] = field(default_factory=list)
    peak: int = 0
    lines: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """How many there were."""
        return self.accepted + self.refused + len(self.crashes)


def fault_of(error: BaseException, where: str) -> str | None:
    """Return what is wrong with a refusal; None if it is as it should be."""
    if not isinstance(error, InputError):
        frames = traceback.extract_tb(error.__traceback__)
        last = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "site-packages" not in f.filename][-2:]
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({', '.join(last)})"
    line = str(error)
    if not line.isprintable():
        return f"more than one line, or characters that are not to be seen: {line[:200]!r}"
    if len(line) > LONGEST_LINE:
        return f"a line of {len(line)} characters: {line[:200]!r}"
    return None if where in line else f"does not say where: {line[:300]!r}"


def _status(name: str) -> int:
    """Return a figure of this process's memory, in bytes."""
    (kibibytes,) = re.findall(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(kibibytes) * 1024


class _Work:
    """Tries inputs in this process, and writes what became of each into `report`, a line of JSON an input."""

    def __init__(self, reader: Reader, prepared: Prepared, folder: Path, report: IO[str]) -> None:
        self.reader, self.prepared, self.folder, self.report = reader, prepared, folder, report
        size = _status("VmSize") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)  # ends the process, in whatever library it hangs
        Path("/proc/self/clear_refs").write_text("5")
        self.start = _status("VmRSS")

    def try_one(self, content: bytes, *, is_valid: bool = False) -> None:
        """Read one input; a valid file that is refused is a crash too."""
        path, fresh = self.folder / self.reader.file, self.folder / "fresh"
        fresh.write_bytes(content)
        os.replace(fresh, path)  # a file of its own each time: HDF5 knows open files by their inode
        kind, line = "accepted", ""
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        try:
            self.prepared.read(path)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            fault = fault_of(error, self.reader.file if self.reader.where is None else self.reader.where)
            if fault is None and is_valid:
                fault = f"a valid file is refused: {error}"
            kind, line = ("refused", str(error)) if fault is None else ("crash", fault)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        crashed = {"content": content.hex()} if kind == "crash" else {}
        self.report.write(
            json.dumps({"kind": kind, "line": line, "peak": _status("VmHWM") - self.start} | crashed) + "\n"
        )
        self.report.flush()


def content_of(reader: Reader, prepared: Prepared, seed: int, number: int) -> bytes:
    """Return an input; the first ones are the valid files as they are."""
    if number < len(prepared.samples):
        return prepared.samples[number]
    return mutated(Random(f"{seed} {reader.name} {number}"), prepared.samples, reader.kind)


def _in_a_process(reader: Reader, base: Path, seed: int, numbers: range) -> int:
    """Try inputs in a fork; return how it ended, as `os.waitpid` tells."""
    folder = base / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with open(base / "report", "w", encoding="utf-8") as report:
                prepared = reader.prepare(folder)
                work = _Work(reader, prepared, folder, report)
                for number in numbers:
                    content = content_of(reader, prepared, seed, number)
                    work.try_one(content, is_valid=number < len(prepared.samples))
            code = 0
        except BaseException:
            (base / "fault").write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def run(reader: Reader, inputs: int, seed: int) -> Outcome:
    """Fuzz one reader with so many inputs, which the seed decides."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        base = Path(name)
        while outcome.inputs < inputs:
            status = _in_a_process(reader, base, seed, range(outcome.inputs, inputs))
            for line in (base / "report").read_text(encoding="utf-8").splitlines():
                told = json.loads(line)
                outcome.accepted += told["kind"] == "accepted"
                outcome.refused += told["kind"] == "refused"
                outcome.peak = max(outcome.peak, told["peak"])
                if told["kind"] == "crash":
                    outcome.crashes.append(Crash(told["line"], bytes.fromhex(told["content"])))
                elif told["line"]:
                    outcome.lines.setdefault(_kind(told["line"]), told["line"])
            if os.WIFEXITED(status):
                assert status == 0, f"{reader.name}: {(base / 'fault').read_text(encoding='utf-8')}"
                break
            ended_by = signal.Signals(os.WTERMSIG(status))
            is_slow = ended_by in (signal.SIGPROF, signal.SIGALRM)
            what = "hangs" if is_slow else f"ends the process by {ended_by.name}"
            outcome.crashes.append(Crash(what, (base / "folder" / reader.file).read_bytes()))
    if outcome.peak > MEMORY:
        outcome.crashes.append(Crash(f"{outcome.peak} bytes of memory", b""))
    return outcome


def _kind(line: str) -> str:
    """Reduce a message to what messages of its kind have in common."""
    return re.sub(r"\d+", "0", line)[:120]


@dataclass(frozen=True)
class FuzzConfig:
    """Flags of the fuzzer."""

    inputs: int = flag(10_000, "inputs of each reader")
    readers: str = flag(",".join(READERS), "readers, separated by commas")
    seed: int = flag(0, "decides the inputs")
    crashes: str = flag("fuzz_crashes", "folder for inputs that were neither read nor refused with one line")
    lines: bool = flag(False, "print an example of every kind of refusal")

    def __post_init__(self) -> None:
        check_range(self, "inputs", low=1)
        check_range(self, "seed", low=0)
        unknown = sorted(set(self.readers.split(",")) - set(READERS))
        if unknown:
            raise InputError(f"--readers {', '.join(unknown)} unknown; known: {', '.join(READERS)}")


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Fuzz, print the table, keep what crashed, each kind of a reader told once."""
    parser = OneLineParser(prog="python -m tests.fuzz", description="Fuzz every reader of files.")
    add_flags(parser, "fuzzing", FuzzConfig)
    config = from_namespace(FuzzConfig, parser.parse_args(argv))
    torch.set_num_threads(1)
    rows: list[list[Any]] = []
    for name in config.readers.split(","):
        started = time.monotonic()
        outcome = run(READERS[name], config.inputs, config.seed)
        for number, crash in enumerate(outcome.crashes):
            Path(config.crashes).mkdir(parents=True, exist_ok=True)
            (Path(config.crashes) / f"{name}-{number}").write_bytes(crash.content)
        for what in {_kind(crash.what): crash.what for crash in outcome.crashes}.values():
            print(f"  {name}: {what}", flush=True)
        counts = (outcome.inputs, outcome.accepted, outcome.refused, len(outcome.crashes), len(outcome.lines))
        rows.append([name, *counts, f"{outcome.peak / 2**20:.0f}", time.monotonic() - started])
        print("  ".join(map(str, rows[-1])), flush=True)
        if config.lines:
            print("\n".join(f"    {line}" for line in outcome.lines.values()), flush=True)
    print(table(HEADER, rows))
    crashes = sum(row[4] for row in rows)
    print(f"{sum(row[1] for row in rows)} inputs, {crashes} crashes")
    if crashes:
        sys.exit(1)


if __name__ == "__main__":
    main()
