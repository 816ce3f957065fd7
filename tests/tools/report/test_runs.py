"""Reading the folders of runs: finished, in progress, of before, damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from methods.blocks.mixture import NormalMixture
from runtime.errors import InputError
from tests.tools.report.made_up import copied, edit_config
from tools.report.runs import read_run, read_runs


def test_a_finished_run(trained_folder: Path) -> None:
    run = read_run(trained_folder)
    assert run.checkpoint is not None and run.results is not None and run.data_name == "tiny_precomp"
    assert list(run.divisions) == [(1, "A"), (1, "B")]
    division = run.division(1, "B")
    assert len(division.signal) == len(division.probability) == len(division.is_clean) == 200
    assert division.is_matched is not None and 0.7 < division.is_matched.mean() < 0.9
    assert division.fitted is not None and division.fitted.fit_type == "bmm"
    assert division.fitted.low == pytest.approx(division.signal.min(), rel=1e-5)
    assert {"similarity", "drift_factor", "corrected"} == set(division.diagnostics)
    (recorded,) = (r for r in run.events("division") if r["network"] == "B")
    assert division.is_clean.mean() == pytest.approx(recorded["division/B/share_clean"])


def test_a_record_that_is_being_written_is_left_out(trained_folder: Path, tmp_path: Path) -> None:
    folder = copied(trained_folder, tmp_path / "run", "results.json")
    before = read_run(folder)
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"event": "loss", "epo')
    run = read_run(folder)
    assert run.results is None and run.records == before.records
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(InputError, match=rf"metrics.jsonl line {len(run.records) + 1} is not JSON"):
        read_run(folder)


def test_folders_that_are_no_runs(trained_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(InputError, match="it has no config.json"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="neither a checkpoint nor records"):
        read_run(copied(trained_folder, tmp_path / "new", "*.tar", "metrics.jsonl"))
    with pytest.raises(InputError, match="given twice"):
        read_runs([trained_folder, trained_folder / "."])
    folder = copied(trained_folder, tmp_path / "odd")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="lacks settings"):
        read_run(folder)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="config.json cannot be read"):
        read_run(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but no more"])
def test_a_damaged_division_is_named(trained_folder: Path, tmp_path: Path, content: bytes) -> None:
    folder = copied(trained_folder, tmp_path / "run")
    path = folder / "divisions" / "epoch_001_A.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="epoch_001_A.npz is damaged"):
        read_run(folder).division(1, "A")
    np.savez(path, probability=np.ones(3))
    with pytest.raises(InputError, match="epoch_001_A.npz is damaged"):
        read_run(folder).division(1, "A")


def test_runs_are_called_by_what_tells_them_apart(trained_folder: Path, tmp_path: Path) -> None:
    seeded, bicro = copied(trained_folder, tmp_path / "seeded"), copied(trained_folder, tmp_path / "bicro")
    edit_config(seeded, "training", seed=5)
    config = json.loads((bicro / "config.json").read_text())
    (bicro / "config.json").write_text(json.dumps(config | {"method_name": "bicro"}))
    assert [r.label for r in read_runs([trained_folder])] == ["mgcs VSE"]
    assert [r.label for r in read_runs([trained_folder, bicro])] == ["mgcs VSE", "bicro VSE"]
    assert [r.label for r in read_runs([trained_folder, seeded])] == ["mgcs VSE seed 0", "mgcs VSE seed 5"]
    same = copied(trained_folder, tmp_path / "same")
    assert [r.label for r in read_runs([trained_folder, same])] == [trained_folder.name, "same"]


def test_modes_of_dsdmr_are_taken_from_its_figures(trained_folder: Path, tmp_path: Path) -> None:
    folder = copied(trained_folder, tmp_path / "run")
    path = folder / "divisions" / "epoch_001_A.npz"
    arrays = {k: v for k, v in np.load(path).items() if not k.startswith(("fit", "fitted"))}
    np.savez(path, **arrays)
    assert read_run(folder).division(1, "A").fitted is None
    figures = {"clean_mean": 0.7, "clean_std": 0.1, "clean_weight": 0.6, "noisy_mean": 0.2, "noisy_std": 0.2}
    record = {f"division/A/{k}": v for k, v in (figures | {"noisy_weight": 0.4}).items()}
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"event": "division", "network": "A", "step": 1, **record}) + "\n")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(s for s in lines if '"division/A/auc"' not in s) + "\n")
    fitted = read_run(folder).division(1, "A").fitted
    assert fitted is not None and isinstance(fitted.mixture, NormalMixture)
    clean, noisy = fitted.density(np.array([-0.7, -0.2]))  # the signal is minus the similarity
    assert clean[0] == pytest.approx(0.6 / (0.1 * np.sqrt(2 * np.pi))) and noisy[1] > noisy[0]
