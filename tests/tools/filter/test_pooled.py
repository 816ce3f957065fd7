"""A checkpoint's pooled embeddings: rows belong together, mismatched pairs are those of the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.restored import restore
from runtime.checkpoint import load_checkpoint
from tools.filter import __main__ as clean
from tools.filter import pooled


def write(checkpoint: Path, output: Path, *flags: str) -> dict[str, np.ndarray]:
    """Run the command and return its arrays by file name."""
    pooled.main(["--mode_path", str(checkpoint), "--output", str(output), "--gpu", "cpu", *flags])
    return {path.stem: np.load(path, allow_pickle=False) for path in output.iterdir()}


def test_rows_are_the_pairs_of_the_run(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = write(checkpoint_path, tmp_path / "train")
    noise = load_checkpoint(checkpoint_path)["config"]["noise_report"]
    assert found["images"].shape == found["captions"].shape == (200, 16)
    assert 1 - found["truth"].mean() == pytest.approx(noise["measured_ratio"])
    capsys.readouterr()
    flags = ["--images", str(tmp_path / "train/images.npy"), "--captions", str(tmp_path / "train/captions.npy")]
    clean.main([*flags, "--truth", str(tmp_path / "train/truth.npy"), "--output", str(tmp_path / "clean")])
    assert "200 images, 200 captions" in capsys.readouterr().out


def test_cosines_are_the_scores_of_vse(checkpoint_path: Path, tmp_path: Path) -> None:
    """Two networks give two sets; without noise (dev) every image's row stands for all its captions."""
    first = write(checkpoint_path, tmp_path / "a", "--split", "dev")
    second = write(checkpoint_path, tmp_path / "b", "--split", "dev", "--network", "B")
    assert "truth" not in first and not np.array_equal(first["images"], second["images"])
    assert np.array_equal(first["images"][:5], np.repeat(first["images"][:1], 5, axis=0))
    assert len(restore(load_checkpoint(checkpoint_path), "")) == 2
    for found in (first, second):
        assert np.linalg.norm(found["captions"], axis=1) == pytest.approx(np.ones(len(found["captions"])), abs=1e-4)


@pytest.mark.parametrize("flags", [("--mode_path", "none.pth.tar"), ("--split", "other"), ("--network", "C")])
def test_bad_input(
    flags: tuple[str, ...], checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        write(checkpoint_path, tmp_path / "out", *flags)
    assert stop.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
