"""What saving costs: the arithmetic, and that what is saved is a run's state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import saving
from training.saved_state import SavedState


def test_the_share_by_hand() -> None:
    found = saving.share_of_an_epoch(1.0, 3.3, 10.0, 2)
    assert found["seconds"] == pytest.approx(2 * 1133 * 3.3) and found["saves"] == 12 + 3
    assert found["share"] == pytest.approx(15 / (7477.8 + 15))
    assert saving.share_of_an_epoch(1.0, 0.01, 10.0, 2)["saves"] == 3


def test_a_small_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("PAIRS", 40), ("IMAGES", 8), ("BATCH", 4), ("VOCABULARY_SIZE", 20), ("REGION_DIM", 6)):
        monkeypatch.setattr(saving, name, value)
    parse = saving.parse_args
    sizes = ["--embed_size", "8", "--word_dim", "4", "--sim_dim", "4", "--drift_correction", "both"]
    monkeypatch.setattr(saving, "parse_args", lambda argv: parse([*argv, *sizes]))
    networks, state = saving.full_state("mgcs")
    assert len(networks) == 2 and state["networks"][0]["method"]["bank"]["image_global"].shape == (8, 8)
    assert all(torch.is_tensor(moments["exp_avg"]) for moments in state["networks"][0]["optimiser"]["state"].values())
    cost = saving.cost_of_saving(state, tmp_path, 1)
    content, _ = SavedState(tmp_path).load()
    assert set(state) <= set(content) and cost.size > 1000 and cost.whole > 0
    saving.main(["--methods", "bicro", "--step_seconds", "2", "--repeats", "1", "--folder", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    assert said[2].split()[0] == "bicro" and said[-1].split()[:3] == ["bicro", "2.00", "40"]


@pytest.mark.parametrize(
    "argv", [["--step_seconds", "x"], ["--step_seconds", "1,-2"], ["--folder", "nowhere"], ["--methods", "nonsense"]]
)
def test_flags_that_make_no_sense(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        saving.main(argv)
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1 and argv[1].split(",")[0] in line
