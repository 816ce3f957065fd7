"""What the tests of commands share: how a command that cannot work ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

ErrorOf = Callable[[Callable[[list[str]], None], Iterable[str | Path]], str]
"""Runs a command that cannot work; returns the one line that it ends with."""


@pytest.fixture
def error_of(capsys: pytest.CaptureFixture[str]) -> ErrorOf:
    """Run a command with arguments; make sure that it ends with code 2, one line and nothing else."""

    def run(main: Callable[[list[str]], None], argv: Iterable[str | Path]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
        return error

    return run
