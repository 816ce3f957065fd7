"""Fuzz the readers: the long version, and how to meet one crash again.

    python -m tests.fuzz --inputs 10000
    python -m tests.fuzz --readers checkpoint,vocabulary --seed 7

Prints a row for each reader and writes every input that was neither read nor refused with one line into a folder.
Inputs are decided by --seed: the same command finds the same crashes. Ends with 1 if there was one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from runtime.log import table
from tests.fuzz.campaign import Outcome, run
from tests.fuzz.readers import READERS

HEADER = ("reader", "inputs", "accepted", "refused", "crashes", "kinds of refusal", "peak MiB", "seconds")


@dataclass(frozen=True)
class FuzzConfig:
    """Flags of the fuzzer."""

    inputs: int = flag(10_000, "inputs of each reader")
    readers: str | None = flag(None, "readers, separated by commas (default: all)")
    seed: int = flag(0, "decides the inputs")
    crashes: str = flag("fuzz_crashes", "folder for inputs that were neither read nor refused with one line")
    lines: bool = flag(False, "print an example of every kind of refusal")

    def __post_init__(self) -> None:
        check_range(self, "inputs", low=1)
        check_range(self, "seed", low=0)
        unknown = sorted(set(self.names()) - set(READERS))
        if unknown:
            raise InputError(f"--readers {', '.join(unknown)} unknown; known: {', '.join(READERS)}")

    def names(self) -> list[str]:
        """Return the readers that are asked for."""
        return list(READERS) if self.readers is None else [n.strip() for n in self.readers.split(",") if n.strip()]


def keep(outcome: Outcome, name: str, folder: Path) -> None:
    """Print a reader's crashes, each kind once, and write their inputs."""
    seen = set()
    for crash in outcome.crashes:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}-{crash.number}").write_bytes(crash.content)
        kind = re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "", crash.what)[:80]
        if kind not in seen:
            seen.add(kind)
            print(f"  {name} {crash.number}: {crash.what}", flush=True)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Fuzz, print the table."""
    parser = OneLineParser(prog="python -m tests.fuzz", description="Fuzz every reader of files.")
    add_flags(parser, "fuzzing", FuzzConfig)
    config = from_namespace(FuzzConfig, parser.parse_args(argv))
    torch.set_num_threads(1)
    rows: list[list[Any]] = []
    for name in config.names():
        outcome = run(READERS[name], config.inputs, config.seed)
        keep(outcome, name, Path(config.crashes))
        kinds = len(outcome.lines)
        rows.append(
            [name, outcome.inputs, outcome.accepted, outcome.refused, len(outcome.crashes), kinds]
            + [f"{outcome.peak / 2**20:.0f}", outcome.seconds]
        )
        print("  ".join(map(str, rows[-1])), flush=True)
        if config.lines:
            print("\n".join(f"    {line}" for line in outcome.lines), flush=True)
    print(table(HEADER, rows))
    crashes = sum(row[4] for row in rows)
    print(f"{sum(row[1] for row in rows)} inputs, {crashes} crashes")
    if crashes:
        sys.exit(1)


if __name__ == "__main__":
    main()
