"""A short part of the soak, and that it can fail."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch

from runtime.checkpoint import save_checkpoint
from runtime.errors import InputError
from runtime.log import Events
from tests.soak import __main__ as soak
from tests.soak.__main__ import NO_SPACE, Campaign, FailingDisk
from tests.soak.victims import KINDS, ROOT, START, differences, leftovers, outcome, place_of


@pytest.fixture
def disk_as_before() -> Iterator[None]:
    """Give this process its ways to write back."""
    before = builtins.open, os.fsync, os.replace
    yield
    builtins.open, os.fsync, os.replace = before


def test_a_few_kills_and_failing_writes() -> None:
    command = [sys.executable, "-m", "tests.soak", "--kills", "2", "--seed", "1", "--stride", "6"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = ended.stdout.splitlines()
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert sum(line.startswith("kill ") for line in said) == 2
    assert any(line.startswith("2 of 2 kills resumed bit-identical") for line in said)
    assert any("runs with failing writes end as the clean one" in line for line in said)
    assert "3 of 3 runs with a damaged state end as the clean one" in said
    assert any(line.startswith("a disk ") for line in said)


def test_a_run_that_ends_otherwise_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign whose runs leave something else than the run left alone, or end with an error, is no good."""
    said: list[str] = []

    class Ended:
        def __init__(self, code: int) -> None:
            self.code = code

        def wait(self) -> int:
            return self.code

        def said(self) -> list[str]:
            return ["last words"]

    (tmp_path / "run 0" / "folder").mkdir(parents=True)
    name = next(iter(KINDS))
    for code, clean, told in (
        (0, {"results.json": 1}, "0 kills, bit-identical"),
        (0, {"results.json": 2}, "FAIL: differs or is left over: results.json"),
        (1, {"results.json": 1}, "ended with exit code 1: last words"),
    ):
        campaign = Campaign(tmp_path, tmp_path, Random(0), said.append, _clean={name: clean})
        monkeypatch.setattr(campaign, "_begin", lambda *_, code=code: Ended(code))
        monkeypatch.setattr(soak, "outcome", lambda folder, by_network: {"results.json": 1})
        campaign._one_run(name, [])
        assert told in said[-1]


def test_outcomes_differ_where_runs_do(trained_folder: Path, tmp_path: Path) -> None:
    found = outcome(trained_folder)
    assert {"files", "checkpoint_dev_best.pth.tar", "metrics.jsonl", "results.json"} <= set(found)
    assert not differences(found, outcome(trained_folder)) and not leftovers(trained_folder)
    assert differences(found, {**found, "files": []}) == ["files"]
    networks = [dict(weights) for weights in found["checkpoint_dev_best.pth.tar"]]
    key, value = next(iter(networks[1].items()))
    networks[1][key] = value[:-1] + bytes([value[-1] ^ 1])
    assert differences(found, {**found, "checkpoint_dev_best.pth.tar": networks}) == ["checkpoint_dev_best.pth.tar"]
    (tmp_path / "state-1.part").touch()
    (tmp_path / "lock").touch()
    assert leftovers(tmp_path) == ["lock", "state-1.part"]


def test_where_a_run_is() -> None:
    trainer = ["/x/training/trainer.py/validate", "/x/training/trainer.py/do", "/x/training/trainer.py/train"]
    assert place_of(trainer) == "validation"
    assert place_of(["/x/runtime/checkpoint.py/whole_file", *trainer]) == "a save"
    assert place_of(["/x/models/sgraf.py/forward", "/x/training/trainer.py/divide", *trainer[1:]]) == "a division"
    assert place_of(["/x/data_utils/tokens.py/load", "/x/run.py/train"]) == START


def test_a_full_disk_is_told_whatever_is_written(tmp_path: Path, disk_as_before: None) -> None:
    """torch's own writer raises a RuntimeError on a file that took only some of what it was given."""
    content = {"weights": torch.zeros(30_000), "text": "x" * 30_000}
    for way in ("write", "fsync", "rename"):
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
