"""What bad inputs are told, a part of the table; and that the table tells when a command does something else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.bad_inputs import __main__ as bad_inputs
from benchmarks.bad_inputs import case as case_module
from benchmarks.bad_inputs.case import ACCEPTED, FAULT_FOUND, Case, found
from runtime.errors import InputError, exit_on_input_error


@pytest.mark.parametrize("case", bad_inputs.CASES[::3], ids=lambda case: f"{case.command}, {case.wrong}")
def test_a_bad_input_is_told(case: Case, tmp_path: Path) -> None:
    if case.missing():
        pytest.skip(f"needs {case.missing()[0]}")
    finding = found(case, tmp_path / "own", tmp_path / "shared")
    assert not finding.problems, finding.line
    assert not (tmp_path / "own").exists() and str(tmp_path) not in finding.line


def test_every_list_is_there() -> None:
    assert [sum(c.issue[0] == number for c in bad_inputs.CASES) for number in "12345"] == [27, 3, 9, 12, 8]
    assert len({(c.command, c.wrong) for c in bad_inputs.CASES}) == len(bad_inputs.CASES)


def refused(argv: list[str]) -> None:
    raise InputError("no such file")


def talkative(argv: list[str]) -> None:
    print("a remark", file=sys.stderr)
    raise InputError("no such file")


def accepted(argv: list[str]) -> None:
    print("no such file")


def broken(argv: list[str]) -> None:
    raise KeyError("no such file")


def other_code(argv: list[str]) -> None:
    print("error: no such file", file=sys.stderr)
    sys.exit(1)


@pytest.mark.parametrize(
    ("entry", "code", "problems"),
    [
        (refused, 2, ()),
        (refused, ACCEPTED, ("exit code 2 instead of 0", "no line that tells")),
        (talkative, 2, ("2 lines instead of one",)),
        (accepted, 2, ("exit code 0 instead of 2", "0 lines instead of one", "no line that tells")),
        (accepted, ACCEPTED, ()),
        (accepted, FAULT_FOUND, ("exit code 0 instead of 1",)),
        (broken, 2, ("exit code None instead of 2", "a traceback", "lines instead of one")),
        (other_code, 2, ("exit code 1 instead of 2",)),
    ],
)
def test_what_is_wrong_is_found(
    entry: Callable[[list[str]], None],
    code: int,
    problems: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(case_module.COMMANDS, "made up", exit_on_input_error(entry))
    case = Case("0. none", "made up", "made up", lambda w: [], "no such file", code)
    finding = found(case, tmp_path / "own", tmp_path / "shared")
    assert len(finding.problems) == len(problems), finding.problems
    assert all(told in said for told, said in zip(problems, finding.problems, strict=True))


def test_the_table_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(case_module.COMMANDS, "made up", exit_on_input_error(refused))
    good = Case("0. none", "a | b", "made up", lambda w: [], "no such file")
    left_out = Case("0. none", "b", "made up", lambda w: [], "no such file", needs=("no_such_package",))
    monkeypatch.setattr(bad_inputs, "CASES", [good, left_out])
    bad_inputs.main(["--output", str(tmp_path / "table.md")])
    said = capsys.readouterr().out
    assert "| 0. none | a / b | `made up` | 2 | `error: no such file` |" in said
    assert "left out: 1 cases need no_such_package" in said and "1 of 1 bad inputs are met as they should be" in said
    written = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert written.startswith("# What bad inputs are told\n") and "`error: no such file` |" in written
    monkeypatch.setattr(bad_inputs, "CASES", [good, Case("0. none", "c", "made up", lambda w: [], "another line")])
    with pytest.raises(SystemExit) as stop:
        bad_inputs.main([])
    assert stop.value.code == 1 and "FAIL: made up, c: no line that tells: another line" in capsys.readouterr().out
