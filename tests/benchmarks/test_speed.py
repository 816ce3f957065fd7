"""The benchmarks of steps, epochs and evaluations on tiny sizes: their rows, and that both formulations agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import epoch, evaluation, train_step
from benchmarks.published_sizes import (
    LONGEST,
    SHORTEST,
    caption_lengths,
    published_matcher,
    published_split,
    random_batch,
)
from models.matcher import bf16_is_supported
from tests.tiny import tiny_flags

SMALL = ["--images", "6", "--captions_per_image", "2", "--embed_size", "16", "--repeats", "1"]
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
    assert len(rows) == 5 + bf16_is_supported(torch.device("cpu"))
    compared = [row for name, row in by_name.items() if not name.startswith("MGCS")]
    assert all(row["max_diff"] < 1e-2 and row["ratio"] == row["published_s"] / row["ours_s"] for row in compared)
    assert by_name["hardest negatives, SGR"]["max_diff"] < 1e-4
    assert "hardest negatives, SAF" in capsys.readouterr().out


def test_an_epoch(tiny_root: Path, tmp_path: Path) -> None:
    recipe, target = tmp_path / "tiny.args", tmp_path / "row.json"
    recipe.write_text(" ".join(tiny_flags(tiny_root, tmp_path, "--module_name", "SGR")), encoding="utf-8")
    flags = ["--recipe", str(recipe), "--share", "1", "--repeats", "1", "--json", str(target)]
    epoch.main(flags)
    (row,) = json.loads(target.read_text(encoding="utf-8"))
    assert set(row) == FIELDS and "200 pairs, both networks" in row["name"]


@pytest.mark.parametrize(
    ("main", "flags", "message"),
    [
        (evaluation.main, ["--repeats", "0"], "--repeats 0"),
        (evaluation.main, ["--device", "tpu"], "--device 'tpu'"),
        (evaluation.main, ["--json", "no/such/folder/x.json"], "no/such/folder"),
        (train_step.main, ["--rows", "hard,nonsense"], "--rows nonsense is unknown"),
        (epoch.main, ["--recipe", "absent.args"], "--recipe absent.args"),
    ],
)
def test_flags_that_make_no_sense(
    main: Callable[[list[str]], None], flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(flags)
    line = capsys.readouterr().err
    assert stop.value.code == 2 and message in line and line.count("\n") == 1


@pytest.mark.parametrize("module_name", ["SGR", "SAF"])
def test_the_rows(module_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "rows.json"
    evaluation.main([*SMALL, "--module_name", module_name, "--json", str(target)])
    exact, *low = json.loads(target.read_text(encoding="utf-8"))
    assert [("bf16" in row["name"]) for row in low] == [True] * bf16_is_supported(torch.device("cpu"))
    assert "6 x 12, exact" in exact["name"]
    assert exact["max_diff"] < 1e-5, "both formulations compute the same scores"
    text = capsys.readouterr().out
    assert exact["name"] in text


def test_a_made_up_split_is_what_was_asked_for_and_leaves_nothing() -> None:
    with published_split(3, 4, num_regions=2, region_dim=5) as split:
        folder = split.regions.path.parent
        assert (split.num_images, len(split), split.region_shape, split.counts.captions_per_image) == (3, 12, (2, 5), 4)
        assert split.lengths.min() >= SHORTEST and split.lengths.max() <= LONGEST
        assert split.read_images(np.arange(3)).std() > 0.5
        assert folder.is_dir()
    assert not folder.exists()


def test_lengths_are_those_of_flickr30k() -> None:
    lengths = caption_lengths(20_000, torch.Generator().manual_seed(0)).double()
    assert float(lengths.mean()) == pytest.approx(14, abs=0.2) and float(lengths.std()) == pytest.approx(5.4, abs=0.3)
