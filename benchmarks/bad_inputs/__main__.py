"""Every bad input of issues 1 to 5, the exit code and the line that the command prints: a Markdown table.

    python -m benchmarks.bad_inputs
    python -m benchmarks.bad_inputs --output docs/bad_inputs.md

Exit code 1 if a command does anything but what is asked of it: one line that tells, and exit code 2, unless the input
is to be accepted, or a fault to be found by data_utils.check. Without the packages for pictures and CLIP their cases
are left out, which is said.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from benchmarks.bad_inputs import field, filtering, main_job, resuming, speed
from benchmarks.bad_inputs.case import Case, Finding, found
from runtime.checkpoint import write_atomically
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, flag, from_namespace

CASES: list[Case] = [*main_job.CASES, *speed.CASES, *filtering.CASES, *field.CASES, *resuming.CASES]
HEADER = ("list", "what is wrong", "command", "exit code", "what it says")


@dataclass(frozen=True)
class BadInputsConfig:
    """Flags of `python -m benchmarks.bad_inputs`."""

    output: str | None = flag(None, "write the table to this file too", metavar="FILE")
    only: str | None = flag(None, "try only inputs whose description holds this text")


def try_all(cases: Iterable[Case]) -> tuple[list[Finding], Counter[str]]:
    """Try the cases; return what happened, and how many were left out by the package that is missing."""
    findings, left_out = [], Counter[str]()
    with tempfile.TemporaryDirectory(prefix="bad-inputs-") as place:
        with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(Path(place) / "cache")}):
            for number, case in enumerate(cases):
                missing = case.missing()
                left_out.update(missing[:1])
                if not missing:
                    findings.append(found(case, Path(place) / str(number), Path(place) / "shared"))
    return findings, left_out


def as_markdown(findings: Iterable[Finding]) -> str:
    """Return the table."""
    rows = [HEADER, tuple("---" for _ in HEADER)]
    for finding in findings:
        case = finding.case
        code = "traceback" if finding.code is None else str(finding.code)
        rows.append((case.issue, case.wrong, f"`{case.command}`", code, f"`{finding.line}`"))
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in rows)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Try every case, print the table and what is wrong."""
    parser = OneLineParser(prog="python -m benchmarks.bad_inputs", description="What bad inputs are told.")
    add_flags(parser, "bad inputs", BadInputsConfig)
    config = from_namespace(BadInputsConfig, parser.parse_args(argv))
    cases = [case for case in CASES if config.only is None or config.only in case.wrong]
    if not cases:
        raise InputError(f"--only {config.only!r} is in no description; leave it out to see them all")
    findings, left_out = try_all(cases)
    table = as_markdown(findings)
    print(table)
    if config.output is not None:
        write_atomically(Path(config.output), (f"# What bad inputs are told\n\n{__doc__}\n" + table + "\n").encode())
    for name, count in left_out.items():
        print(f"left out: {count} cases need {name}, which is not installed")
    wrong = [finding for finding in findings if finding.problems]
    for finding in wrong:
        print(f"FAIL: {finding.case.command}, {finding.case.wrong}: {'; '.join(finding.problems)}")
    print(f"{len(findings) - len(wrong)} of {len(findings)} bad inputs are met as they should be")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
