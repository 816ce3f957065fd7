"""A short part of the soak, and that it can fail."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runtime.checkpoint import save_checkpoint
from runtime.errors import InputError
from runtime.log import Events
from tests.soak import NO_SPACE, WAYS, FailingDisk, differences, leftovers, outcome

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def disk_as_before() -> Iterator[None]:
    """Give this process its ways to write back."""
    before = builtins.open, os.fsync, os.replace
    yield
    builtins.open, os.fsync, os.replace = before


def test_a_few_kills_and_failing_writes() -> None:
    command = [sys.executable, "-m", "tests.soak", "--kills", "2", "--seed", "1", "--stride", "7"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = ended.stdout.splitlines()
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert any(line.startswith("2 of 2 kills resumed bit-identical") for line in said)
    assert any("runs with failing writes end as the clean one" in line for line in said)


def test_outcomes_differ_where_runs_do(trained_folder: Path, tmp_path: Path) -> None:
    found = outcome(trained_folder)
    assert {"files", "checkpoint_dev_best.pth.tar", "metrics.jsonl", "results.json"} <= set(found)
    assert not differences(found, outcome(trained_folder)) and not leftovers(trained_folder)
    networks = [dict(weights) for weights in found["checkpoint_dev_best.pth.tar"]]
    key, value = next(iter(networks[1].items()))
    networks[1][key] = value[:-1] + bytes([value[-1] ^ 1])
    assert differences(found, {**found, "checkpoint_dev_best.pth.tar": networks}) == ["checkpoint_dev_best.pth.tar"]
    (tmp_path / "state-1.part").touch()
    (tmp_path / "lock").touch()
    assert leftovers(tmp_path) == ["lock", "state-1.part"]


def test_a_full_disk_is_told_whatever_is_written(tmp_path: Path, disk_as_before: None) -> None:
    """torch's own writer raises a RuntimeError on a file that took only some of what it was given."""
    content = {"weights": torch.zeros(30_000), "text": "x" * 30_000}
    for way in WAYS:
        FailingDisk(way, lambda number: True).install()
        with pytest.raises(InputError, match="checkpoint.pth.tar cannot be written: No space left on device"):
            save_checkpoint(tmp_path / "checkpoint.pth.tar", content)
        assert not list(tmp_path.iterdir())


def test_lost_events_leave_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    events = Events(tmp_path / "events", said.append)

    def refuse(*_: object) -> None:
        raise NO_SPACE

    with monkeypatch.context() as patch:
        patch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", refuse)
        events.record(lambda writer: writer.add_scalar("a", 1.0, 1))
        events.flush()
        events.record(lambda writer: writer.add_scalar("a", 1.0, 2))
    events.record(lambda writer: writer.close())
    assert said and all("cannot be written: No space left on device; its events are lost" in line for line in said)
    assert "Traceback" not in "".join(capfd.readouterr())
