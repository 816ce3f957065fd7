"""SCAN and GPO in a short run each, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evaluation
import run
from tests.test_run import chance
from tests.tiny import tiny_flags


@pytest.mark.parametrize(
    "flags",
    [
        ["--module_name", "SCAN_t2i"],
        ["--module_name", "SCAN_i2t", "--scan_pooling", "mean", "--scan_softmax", "6", "--method", "bicro"],
        ["--module_name", "GPO", "--method", "ncr", "--no_imgnorm", "--no_txtnorm"],
    ],
    ids=" ".join,
)
def test_end_to_end(tiny_root: Path, tmp_path: Path, flags: list[str]) -> None:
    run.main(tiny_flags(tiny_root, tmp_path, *flags, "--warmup_epoch", "3", "--num_epochs", "3"))
    (folder,) = tmp_path.iterdir()
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["test"]["mean"]["rSum"] > chance() + 40
    output = tmp_path / "again.json"
    checkpoint = str(folder / "checkpoint_dev_best.pth.tar")
    evaluation.main(["--mode_path", checkpoint, "--gpu", "cpu", "--output", str(output)])
    again = json.loads(output.read_text(encoding="utf-8"))
    assert again["results"] == results["test"], "a checkpoint knows the flags of its similarity"
