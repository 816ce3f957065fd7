"""What a run leaves of its divisions: files, samples, settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from methods.blocks.method import DivisionReport
from methods.blocks.mixture import fit
from runtime.log import RunLog
from tests.training.trainers import make_trainer
from training.division import Division, as_arrays
from training.reports import record_division, record_samples, record_settings

SIGNAL = np.random.RandomState(0).rand(200)


def division(**more: Any) -> Division:
    return Division(SIGNAL, 1 - SIGNAL, SIGNAL < 0.5, {"similarity": -SIGNAL}, **more)


class Recorded(RunLog):
    """Keeps samples and settings."""

    def samples(self, *values: Any) -> None:
        self.kept = values

    def settings(self, *values: Any) -> None:
        self.kept = values


def test_arrays_of_a_division() -> None:
    fitted = fit(SIGNAL, "gmm")
    found = as_arrays(division(findings=DivisionReport(fitted=fitted)), SIGNAL < 0.4)
    assert found["signal"].dtype == found["probability"].dtype == np.float32
    assert found["is_clean"].dtype == found["is_matched"].dtype == bool
    np.testing.assert_allclose(found["diagnostic_similarity"], -SIGNAL, atol=1e-3)
    assert str(found["fit_type"]) == "gmm" and found["fitted_means"].shape == (2,)
    without = as_arrays(division(), None)
    assert set(without) == {"signal", "probability", "is_clean", "diagnostic_similarity"}


def test_every_division_is_a_file_and_is_written_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    record_division(log, 7, "B", division(), None)
    first = np.load(tmp_path / "divisions" / "epoch_007_B.npz")["signal"]
    record_division(log, 7, "B", division(), None)
    log.close()
    assert [path.name for path in (tmp_path / "divisions").iterdir()] == ["epoch_007_B.npz"]
    np.testing.assert_array_equal(first, SIGNAL.astype(np.float32))


def test_samples_are_captions_with_their_probability(tiny_root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    trainer = make_trainer(tiny_root, tmp_path / "run")
    (tmp_path / "log").mkdir()
    log = Recorded(tmp_path / "log")
    record_samples(log, 3, "A", division(), trainer.data)
    name, columns, rows, step = log.kept
    log.close()
    assert (name, step, columns[0]) == ("captions/A", 3, "pair") and len(rows) == 24
    captions = (tiny_root / "data" / "tiny_precomp" / "train_caps.txt").read_text(encoding="utf-8").splitlines()
    for pair, caption, probability, truth in rows:
        assert caption == captions[int(pair)]
        assert float(probability) == round(1 - SIGNAL[int(pair)], 3)
        assert truth == ("matched" if trainer.data.train.is_matched[int(pair)] else "mismatched")


def test_settings_are_plain_and_hold_no_folder(tiny_root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    trainer = make_trainer(tiny_root, tmp_path / "run", "--method", "bicro", "--seed", "4")
    (tmp_path / "log").mkdir()
    log = Recorded(tmp_path / "log")
    record_settings(log, trainer.config)
    settings, metrics = log.kept
    log.close()
    assert settings["method"] == "bicro" and settings["training/seed"] == 4 and settings["noise/noise_ratio"] == 0.2
    assert not [value for value in settings.values() if isinstance(value, str) and str(tmp_path) in value]
    assert tuple(metrics) == ("dev/mean/rSum", "test/mean/rSum")
