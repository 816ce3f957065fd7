"""`python -m tools.filter` from files to results, and `python -m tools.filter.pooled`, which writes such files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from methods.blocks.modes import SimilarityModes, clean_posterior
from runtime.checkpoint import load_checkpoint
from runtime.errors import InputError
from tests.tools.conftest import ErrorOf
from tests.tools.filter.made_up import flags, make, save, save_as
from tools.command import folder_at_once
from tools.filter import __main__ as clean
from tools.filter import pooled, report
from tools.filter.filtering import filter_quality

FILES = {"clean_probability.csv", "clean_probability.npy", "clean_index.npy", "modes.json", "modes.png"}


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("noise", "captions_per_image"), [(0.2, 1), (0.4, 5), (0.6, 1)])
def test_the_mismatched_pairs_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], noise: float, captions_per_image: int
) -> None:
    made_up = make(400, captions_per_image=captions_per_image, noise=noise)
    output = tmp_path / "deep" / "out"
    names = save(made_up, tmp_path / "in")
    clean.main(flags(names, output, "--captions_per_image", str(captions_per_image)))
    assert {path.name for path in output.iterdir()} == FILES
    record = json.loads((output / "modes.json").read_text())
    quality = record["quality"]
    assert quality["noise"] == pytest.approx(1 - made_up.is_matched.mean())
    assert quality["residual_noise"] < 0.01 and quality["recall"] > 0.99 and quality["auc"] > 0.999
    kept = np.load(output / "clean_index.npy")
    assert kept.dtype == np.int64 and record["num_kept"] == len(kept)
    assert quality["precision"] == pytest.approx(made_up.is_matched[kept].mean(), abs=1e-12)
    modes = SimilarityModes.from_dict(record["modes"])
    assert modes.is_split and abs(modes.noisy.weight - quality["noise"]) < 0.05
    (chance,) = clean_posterior(np.array([record["kept_from"]]), modes)
    assert 0.5 < chance < 1
    told = capsys.readouterr().out
    assert f"kept {len(kept)} of {400 * captions_per_image} pairs" in told and "residual noise %" in told


def test_quality_against_the_obvious() -> None:
    is_clean = np.array([1, 1, 1, 0, 0, 0, 0, 1], dtype=bool)
    is_matched = np.array([1, 1, 0, 1, 1, 1, 0, 0], dtype=bool)
    probability = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1, 0.4, 0.6])
    right, wrong = probability[is_matched], probability[~is_matched]
    auc = np.mean([r > w for r in right for w in wrong])
    expected = {"noise": 3 / 8, "residual_noise": 2 / 4, "precision": 2 / 4, "recall": 2 / 5, "auc": auc}
    assert filter_quality(is_clean, probability, is_matched) == pytest.approx(expected)


def test_the_files_agree_with_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "CSV_ROWS", 7)
    made_up = make(300)
    clean.main(flags(save(made_up, tmp_path), tmp_path / "out", "--p_threshold", "0.9", "--mode_prior", "fitted"))
    output = tmp_path / "out"
    with open(output / "clean_probability.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    probability = np.load(output / "clean_probability.npy")
    assert [int(row["pair"]) for row in rows] == list(range(300))
    assert [float(row["clean_probability"]) for row in rows] == probability.tolist()
    kept = np.flatnonzero(probability > 0.9)
    assert np.load(output / "clean_index.npy").tolist() == kept.tolist()
    assert [k for k, row in enumerate(rows) if row["is_clean"] == "1"] == kept.tolist()
    images, captions = made_up.images.astype(np.float64), made_up.captions.astype(np.float64)
    cosine = (images * captions).sum(1) / np.linalg.norm(images, axis=1) / np.linalg.norm(captions, axis=1)
    np.testing.assert_allclose([float(row["similarity"]) for row in rows], cosine, rtol=0, atol=1e-14)
    record = json.loads((output / "modes.json").read_text())
    modes, lowest = SimilarityModes.from_dict(record["modes"]), record["kept_from"]
    np.testing.assert_allclose(probability, clean_posterior(cosine, modes, "fitted"), atol=1e-9)
    assert kept.tolist() == np.flatnonzero(cosine >= lowest - 1e-12).tolist()


def test_every_way_in_gives_the_same_bits(tmp_path: Path) -> None:
    """Embeddings in three formats; and their similarities, scaled by a power of two, and as the table that was made."""
    made_up = make(300)
    runs: dict[str, list[str]] = {}
    for suffix in (".npy", ".h5", ".safetensors"):
        images = save_as(made_up.images, tmp_path / f"i{suffix}")
        captions = save_as(made_up.captions, tmp_path / f"c{suffix}")
        runs[suffix[1:]] = ["--images", images, "--captions", captions]
    table, scaled = tmp_path / "npy" / "clean_probability.csv", tmp_path / "scaled.npy"
    runs["table"] = ["--similarities", f"{table}::similarity"]
    runs["scaled"] = ["--similarities", str(scaled), "--logit_scale", "64"]
    for name, argv in runs.items():
        clean.main([*argv, "--output", str(tmp_path / name)])
        if name == "npy":
            np.save(scaled, 64 * np.loadtxt(table, delimiter=",", skiprows=1, usecols=1))
    expected = contents(tmp_path / "npy")
    for name in runs:
        found = contents(tmp_path / name)
        assert set(found) == FILES
        assert [k for k in FILES - {"modes.json"} if found[k] != expected[k]] == [], name


def test_one_mode_is_kept_whole_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean.main(flags(save(make(300, noise=0.0), tmp_path), tmp_path / "out"))
    told = capsys.readouterr().out
    assert "warning: " in told and "kept 300 of 300 pairs, 100.0 %" in told
    assert np.load(tmp_path / "out" / "clean_index.npy").tolist() == list(range(300))
    record = json.loads((tmp_path / "out" / "modes.json").read_text())
    assert record["modes"]["note"] in told and record["kept_from"] is None
    assert record["quality"]["auc"] is None and record["quality"]["residual_noise"] == 0
    assert "  -" in told  # what is undefined without a mismatched pair


def test_nothing_is_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, names = tmp_path / "out", save(make(300), tmp_path / "in")
    clean.main(flags(names, output))
    (output / "adapter.pt").write_bytes(b"of an earlier run")
    (output / "notes.txt").write_text("mine")
    before = contents(output)
    with pytest.raises(SystemExit):
        clean.main(flags(names, output, "--p_threshold", "0.9"))
    assert "--overwrite" in capsys.readouterr().err and contents(output) == before
    clean.main(flags(names, output, "--p_threshold", "0.9", "--overwrite"))
    after = contents(output)
    assert set(after) == FILES | {"notes.txt"}, "results that do not belong to this run are gone, other files are not"
    assert after["modes.json"] != before["modes.json"] and after["notes.txt"] == before["notes.txt"]


@pytest.mark.parametrize("was_there", [True, False])
def test_a_failure_leaves_nothing(tmp_path: Path, was_there: bool) -> None:
    folder = tmp_path / "out"
    if was_there:
        folder.mkdir()
        (folder / "old").write_text("old")
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected), folder_at_once(folder, ["old"]) as place:
            (place / "new").write_text("half")
            raise error
    assert contents(folder) == {"old": b"old"} if was_there else not folder.exists()


# -- embeddings of a checkpoint -------------------------------------------------------------------------------------


def write_pooled(checkpoint: Path, output: Path, *flags: str) -> dict[str, np.ndarray]:
    """Run the command and return its arrays by file name."""
    pooled.main(["--mode_path", str(checkpoint), "--output", str(output), "--gpu", "cpu", *flags])
    return {path.stem: np.load(path, allow_pickle=False) for path in output.iterdir()}


def test_pooled_rows_are_the_pairs_of_the_run(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = write_pooled(checkpoint_path, tmp_path / "train")
    noise = load_checkpoint(checkpoint_path)["config"]["noise_report"]
    assert found["images"].shape == found["captions"].shape == (200, 16)
    assert 1 - found["truth"].mean() == pytest.approx(noise["measured_ratio"])
    capsys.readouterr()
    names = {name: f"{tmp_path}/train/{name}.npy" for name in ("images", "captions", "truth")}
    clean.main(flags(names, tmp_path / "clean"))
    assert "200 images, 200 captions" in capsys.readouterr().out


def test_pooled_rows_of_each_network(checkpoint_path: Path, tmp_path: Path) -> None:
    """Without noise (dev) every image's row stands for all its captions."""
    first = write_pooled(checkpoint_path, tmp_path / "a", "--split", "dev")
    second = write_pooled(checkpoint_path, tmp_path / "b", "--split", "dev", "--network", "B")
    assert "truth" not in first and not np.array_equal(first["images"], second["images"])
    assert np.array_equal(first["images"][:5], np.repeat(first["images"][:1], 5, axis=0))
    for found in (first, second):
        assert np.linalg.norm(found["captions"], axis=1) == pytest.approx(np.ones(len(found["captions"])), abs=1e-4)


@pytest.mark.parametrize("flags", [("--mode_path", "none.pth.tar"), ("--split", "other"), ("--network", "C")])
def test_pooled_without_what_it_needs(
    flags: tuple[str, ...], checkpoint_path: Path, tmp_path: Path, error_of: ErrorOf
) -> None:
    error_of(pooled.main, ("--mode_path", checkpoint_path, "--output", tmp_path / "out", "--gpu", "cpu", *flags))
    assert not (tmp_path / "out").exists()
