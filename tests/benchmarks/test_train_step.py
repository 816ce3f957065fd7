"""The step and epoch benchmarks on tiny sizes: their rows, and that both formulations agree."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks import epoch, train_step
from benchmarks.published_sizes import published_matcher, random_batch
from models.matcher import bf16_is_supported
from tests.tiny import tiny_flags

FIELDS = {"name", "published_s", "ours_s", "ratio", "published_peak_mib", "ours_peak_mib", "max_diff"}


def test_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"num_regions": 4, "region_dim": 8}
    monkeypatch.setattr(train_step, "published_matcher", partial(published_matcher, embed_size=16, **sizes))
    monkeypatch.setattr(train_step, "random_batch", partial(random_batch, **sizes))
    target = tmp_path / "rows.json"
    train_step.main(["--batch_size", "6", "--repeats", "1", "--json", str(target)])
    rows = json.loads(target.read_text(encoding="utf-8"))
    assert all(set(row) == FIELDS for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert len(rows) == 5 + bf16_is_supported(train_step.choose_device("cpu"))
    compared = [row for name, row in by_name.items() if not name.startswith("MGCS")]
    assert all(row["max_diff"] < 1e-2 and row["ratio"] == row["published_s"] / row["ours_s"] for row in compared)
    assert by_name["hardest negatives, SGR"]["max_diff"] < 1e-4
    assert "hardest negatives, SAF" in capsys.readouterr().out


def test_an_epoch(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, target = tmp_path / "tiny.args", tmp_path / "row.json"
    recipe.write_text(" ".join(tiny_flags(tiny_root, tmp_path, "--module_name", "SGR")), encoding="utf-8")
    flags = ["--recipe", str(recipe), "--share", "1", "--repeats", "1", "--profile", "--json", str(target)]
    epoch.main(flags)
    (row,) = json.loads(target.read_text(encoding="utf-8"))
    assert set(row) == FIELDS and "200 pairs, both networks" in row["name"]
    assert "\naten::" in capsys.readouterr().out, "operators, whichever took longest"
