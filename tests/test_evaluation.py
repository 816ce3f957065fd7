"""evaluation.py: the tables, and `--shortlist` from the flag to the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluation
from data_utils import catalog
from models import shortlist
from models.ranks import retrieval
from runtime.errors import InputError
from tests.models.test_ranks import HAND_MADE, OWNERS
from tests.test_run import train
from tests.tiny import make_tiny_data

IMAGES, CAPTIONS = 8, 40


@pytest.fixture(scope="module")
def sgr_path(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of two small SGR networks; tests only read it."""
    flags = ["--module_name", "SGR", "--num_epochs", "1", "--warmup_epoch", "1"]
    return train(tiny_root, tmp_path_factory.mktemp("sgr"), *flags) / "checkpoint_dev_best.pth.tar"


class Evaluated:
    """What an evaluation printed and wrote."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], path: Path, *flags: str) -> None:
        output, saved = folder / "record.json", folder / "sims.npz"
        capsys.readouterr()
        targets = ["--output", str(output), "--save_sims", str(saved)]
        evaluation.main(["--mode_path", str(path), "--gpu", "cpu", *targets, *flags])
        self.text = capsys.readouterr().out
        self.record: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        with np.load(saved) as content:
            self.sims = dict(content)


def test_the_table_shows_every_network() -> None:
    result = retrieval(HAND_MADE, OWNERS)
    lines = evaluation.result_table("test", {"A": result, "mean": result}).splitlines()
    rows = [line for line in lines if line.split()[0] in ("A", "mean")]
    assert len(rows) == 2 and all("400" in row and "75" in row for row in rows)


def test_a_shortlist_of_everything_is_exact(sgr_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exact = Evaluated(tmp_path, capsys, sgr_path)
    assert exact.record["shortlist"] is None and "--shortlist" not in exact.text
    short = Evaluated(tmp_path, capsys, sgr_path, "--shortlist", str(IMAGES))
    assert short.record["results"] == exact.record["results"]
    assert short.record["shortlist"]["share_of_pairs"] == 1.0
    for name in ("A", "B", "mean"):
        np.testing.assert_allclose(short.sims[name], exact.sims[name], rtol=0, atol=1e-6)
        assert short.record["shortlist"]["lost"][name]["rSum"] == 0.0
    assert "rSum lost: A 0.00, B 0.00, mean 0.00" in short.text


def test_the_recall_lost_is_measured(sgr_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exact = Evaluated(tmp_path, capsys, sgr_path).record
    short = Evaluated(tmp_path, capsys, sgr_path, "--shortlist", "2")
    record = short.record["shortlist"]
    assert record["size"] == 2 and 0.1 < record["share_of_pairs"] < 0.9
    assert record["seconds"] > 0 and record["exact_seconds"] > 0
    for name in ("A", "B", "mean"):
        lost = exact["results"][name]["rSum"] - short.record["results"][name]["rSum"]
        assert record["lost"][name]["rSum"] == pytest.approx(lost)
        assert f"{name} {lost:.2f}" in short.text
    ways = [record["lost"][name][way] for name in ("A", "B", "mean") for way in ("i2t", "t2i")]
    assert any(value for numbers in ways for value in numbers.values()), "nothing changed: the test could not fail"


def test_the_recall_lost_is_not_measured_where_that_takes_long(
    sgr_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "similarities_by_name", lambda *_: pytest.fail("every pair was scored"))
    short = Evaluated(tmp_path, capsys, sgr_path, "--shortlist", "2", "--shortlist_check", str(IMAGES * CAPTIONS - 1))
    assert "not measured" in short.text and f"--shortlist_check {IMAGES * CAPTIONS}" in short.text
    assert short.record["shortlist"]["lost"] is None


def test_two_checkpoints_with_a_shortlist(sgr_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Evaluated(tmp_path, capsys, sgr_path, "--shortlist", "3")
    both = Evaluated(tmp_path, capsys, sgr_path, "--mode_path1", str(sgr_path), "--shortlist", "3")
    assert list(both.record["results"]) == ["A", "B", "A1", "B1", "mean"]
    assert both.record["results"]["A"] == one.record["results"]["A"], "a second checkpoint does not help the first"
    assert both.record["num_networks"] == 4


def test_vse_needs_no_shortlist(checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exact = Evaluated(tmp_path, capsys, checkpoint_path)
    short = Evaluated(tmp_path, capsys, checkpoint_path, "--shortlist", "2")
    assert short.record["results"] == exact.record["results"] and short.record["shortlist"] is None
    (line,) = [line for line in short.text.splitlines() if "--shortlist" in line]
    assert "left aside" in line and "VSE" in line


def test_folds_have_shortlists_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"train": 40, "dev": 8, "test": 8, "testall": 24}
    flags = ["--module_name", "SGR", "--num_epochs", "1", "--warmup_epoch", "0", "--no_co_training"]
    folder = train(make_tiny_data(tmp_path, images=images), tmp_path / "out", *flags)
    monkeypatch.setitem(catalog.PROTOCOLS, "tiny_precomp", catalog.Protocol(fold_images=8))
    path = folder / "checkpoint_dev_best.pth.tar"
    short = Evaluated(tmp_path, capsys, path, "--split", "testall", "--shortlist", "2")
    real = short.sims["A"] > 0  # sigmoids; all others lie below
    for start in range(0, 24, 8):
        fold = real[start : start + 8, 5 * start : 5 * (start + 8)]
        assert fold.sum(axis=0).min() >= 2 and fold.sum(axis=1).min() >= 2
    assert "8-image folds" in short.text and short.record["fold_results"]["A"]["rSum"] > 0


@pytest.mark.parametrize("size", [IMAGES + 1, CAPTIONS, 10**9, -1])
def test_a_shortlist_that_makes_no_sense(
    sgr_path: Path, size: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortlist, "encode_gallery", lambda *_: pytest.fail("encoded before looking at the flag"))
    with pytest.raises(SystemExit) as stop:
        evaluation.main(["--mode_path", str(sgr_path), "--gpu", "cpu", "--shortlist", str(size)])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1
    assert f"--shortlist {size}" in line
    assert size < 0 or (f"{IMAGES} images" in line and f"{CAPTIONS} captions" in line and "lower it" in line)


def test_a_check_below_zero_is_refused() -> None:
    with pytest.raises(InputError, match="--shortlist_check -1"):
        evaluation.EvaluationConfig(mode_path="x", shortlist_check=-1)
