"""Folders of runs: none is used twice, and one that cannot be made is an error for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import InputError
from training.checkpointing import claim


def test_no_run_is_overwritten(tmp_path: Path) -> None:
    assert [claim(tmp_path / "new", "run").name for _ in range(3)] == ["run", "run-2", "run-3"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--output_dir .*file cannot be written"):
        claim(tmp_path / "file", "run")
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        claim(tmp_path, "run")
