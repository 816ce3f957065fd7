"""The run's log: arrays, TensorBoard's scalars and texts, and a full disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from runtime import log
from runtime.log import RunLog


def accumulated(folder: Path) -> EventAccumulator:
    """Read all events; of two files of one second the order is that of their names, so that none counts as undone."""
    sizes = {"tensors": 0, "scalars": 0}
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance=sizes, purge_orphaned_data=False)
    found.Reload()
    return found


def test_scalars_within_records(tmp_path: Path) -> None:
    run = RunLog(tmp_path)
    run.scalars(3, {"dev/A/rSum": 200.0}, event="dev", title="t", results={"A": {"i2t": {"R@1": 40.0}, "rSum": 200.0}})
    run.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["results"]["A"]["rSum"] == 200.0
    found = accumulated(tmp_path)
    assert sorted(found.Tags()["scalars"]) == ["dev/A/i2t/R@1", "dev/A/rSum"]
    assert [(e.step, e.value) for e in found.Scalars("dev/A/i2t/R@1")] == [(3, 40.0)]


def test_text_samples_are_no_markup(tmp_path: Path) -> None:
    run = RunLog(tmp_path)
    run.samples("captions/A", ("caption", "clean"), [("a | b <script> *x* [y](z)", "0.5")], 2)
    run.close()
    (event,) = accumulated(tmp_path).Tensors("captions/A/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert text.startswith("| caption | clean |\n| --- | --- |\n| a &#124; b &#60;script&#62; ")
    assert not set("<*[(") & set(text)


def test_arrays_are_replaced_whole(tmp_path: Path) -> None:
    run = RunLog(tmp_path)
    run.arrays("epoch_001_A", {"signal": np.arange(3.0)})
    run.arrays("epoch_001_A", {"signal": np.arange(4.0)})
    assert [path.name for path in (tmp_path / "divisions").iterdir()] == ["epoch_001_A.npz"]
    assert np.load(tmp_path / "divisions" / "epoch_001_A.npz")["signal"].tolist() == [0, 1, 2, 3]
    size = run.size()
    run.close()
    RunLog(tmp_path, size).close()
    assert (tmp_path / "divisions" / "epoch_001_A.npz").is_file(), "a resumed run keeps them"
    RunLog(tmp_path).close()
    assert not (tmp_path / "divisions").exists(), "a new one does not"


def full(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_a_full_disk_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunLog(tmp_path)
    run.scalars(1, {"loss/A": 1.0}, event="loss")

    class Full:
        write = staticmethod(full)

    kept, run._metrics = run._metrics, Full()  # type: ignore[assignment]
    with monkeypatch.context() as patch:
        patch.setattr(log, "whole_file", full)
        patch.setattr(SummaryWriter, "add_scalar", full)
        patch.setattr(SummaryWriter, "add_histogram", full)
        for step in (2, 3):
            run.scalars(step, {"loss/A": 1.0 / step}, event="loss")
        run.histogram("signal", np.arange(3.0), 1)
        run.arrays("epoch_001_A", {"signal": np.arange(3.0)})
    said = capsys.readouterr().out
    assert said.count("metrics.jsonl cannot be written: No space left on device") == 1
    assert "training goes on without it" in said and "events are lost" in said
    run._metrics = kept
    run.size()
    run.scalars(4, {"loss/A": 0.25}, event="loss")
    run.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4], "what waited is written when there is room"
    assert sorted(event.step for event in accumulated(tmp_path).Scalars("loss/A")) == [1, 4]


def test_a_record_that_was_written_in_part_is_completed(tmp_path: Path) -> None:
    run = RunLog(tmp_path)
    whole = run._metrics

    class Slow:
        def write(self, content: bytes) -> int:
            return whole.write(content[:5])

        close = staticmethod(whole.close)

    run._metrics = Slow()  # type: ignore[assignment]
    run.scalars(1, {"loss/A": 0.125}, event="loss")
    run.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"event": "loss", "step": 1, "loss/A": 0.125}
