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
from typing import Any

import torch

from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from runtime.log import table
from tests.fuzz.mutations import mutated
from tests.fuzz.readers import READERS, Prepared, Reader

HEADER = ("reader", "inputs", "accepted", "refused", "crashes", "seconds")
MEMORY = 2**30
"""Bytes beyond what the process has with torch and all else imported."""

SECONDS = 10.0
"""Of the processor's time: a reader that takes longer for one input hangs."""

LONGEST_LINE = 1000
"""Characters of a refusal."""


@dataclass(frozen=True)
class Crash:
    """An input that was neither read nor refused in a line."""

    what: str
    content: bytes


@dataclass
class Outcome:
    """What became of a reader's inputs."""

    accepted: int = 0
    refused: int = 0
    crashes: list[Crash] = field(default_factory=list)

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


def _limit() -> None:
    """Limit this process's memory, and let a timer end it in whatever library it hangs."""
    (kibibytes,) = re.findall(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())
    size = int(kibibytes) * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


def _tried(reader: Reader, prepared: Prepared, folder: Path, content: bytes, *, is_valid: bool) -> str | None:
    """Read one input; return "accepted", "refused", or what is wrong. A valid file that is refused is wrong too."""
    path, fresh = folder / reader.file, folder / "fresh"
    fresh.write_bytes(content)
    os.replace(fresh, path)  # a file of its own each time: HDF5 knows open files by their inode
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        prepared.read(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        fault = fault_of(error, reader.file if reader.where is None else reader.where)
        return f"a valid file is refused: {error}" if fault is None and is_valid else fault or "refused"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "accepted"


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
                _limit()
                for number in numbers:
                    content = content_of(reader, prepared, seed, number)
                    told = _tried(reader, prepared, folder, content, is_valid=number < len(prepared.samples))
                    is_crash = told not in ("accepted", "refused")
                    report.write(json.dumps([told, content.hex() if is_crash else ""]) + "\n")
                    report.flush()
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
                told, content = json.loads(line)
                outcome.accepted += told == "accepted"
                outcome.refused += told == "refused"
                if told not in ("accepted", "refused"):
                    outcome.crashes.append(Crash(told, bytes.fromhex(content)))
            if os.WIFEXITED(status):
                assert status == 0, f"{reader.name}: {(base / 'fault').read_text(encoding='utf-8')}"
                break
            ended_by = signal.Signals(os.WTERMSIG(status))
            what = "hangs" if ended_by == signal.SIGPROF else f"ends the process by {ended_by.name}"
            outcome.crashes.append(Crash(what, (base / "folder" / reader.file).read_bytes()))
    return outcome


@dataclass(frozen=True)
class FuzzConfig:
    """Flags of the fuzzer."""

    inputs: int = flag(10_000, "inputs of each reader")
    readers: str = flag(",".join(READERS), "readers, separated by commas")
    seed: int = flag(0, "decides the inputs")
    crashes: str = flag("fuzz_crashes", "folder for inputs that were neither read nor refused with one line")

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
        for what in {re.sub(r"\d+", "0", crash.what)[:120]: crash.what for crash in outcome.crashes}.values():
            print(f"  {name}: {what}", flush=True)
        counts = (outcome.inputs, outcome.accepted, outcome.refused, len(outcome.crashes))
        rows.append([name, *counts, time.monotonic() - started])
        print("  ".join(map(str, rows[-1])), flush=True)
    print(table(HEADER, rows))
    crashes = sum(row[4] for row in rows)
    print(f"{sum(row[1] for row in rows)} inputs, {crashes} crashes")
    if crashes:
        sys.exit(1)


if __name__ == "__main__":
    main()
