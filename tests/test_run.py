"""End to end: every method trains, is evaluated from its checkpoint alone and beats chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluation
import run
from methods import known_methods
from models.ranks import retrieval
from runtime.checkpoint import load_checkpoint
from runtime.errors import Stopped
from tests.tiny import make_tiny_data, tiny_flags
from training.config import parse_args
from training.reports import introduction

FILES = {
    "config.json",
    "checkpoint_dev_best.pth.tar",
    "checkpoint_warmup.pth.tar",
    "metrics.jsonl",
    "results.json",
    "tensorboard",
}
IMAGES, CAPTIONS = 8, 40


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def train(root: Path, output: Path, *flags: str) -> Path:
    """Run run.py; return the new folder."""
    before = set(output.iterdir()) if output.exists() else set()
    run.main(tiny_flags(root, output, *flags))
    (folder,) = set(output.iterdir()) - before
    return folder


def chance() -> float:
    """Return the highest rSum of 50 random matrices of the test split's size."""
    random = np.random.RandomState(0)
    owner = np.arange(CAPTIONS) // (CAPTIONS // IMAGES)
    return max(retrieval(random.rand(IMAGES, CAPTIONS), owner).r_sum for _ in range(50))


@pytest.mark.parametrize(("method", "module"), [*((name, "VSE") for name in known_methods()), ("mgcs", "SGR")])
def test_every_method_end_to_end(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, module: str
) -> None:
    flags = ["--method", method, "--module_name", module, "--warmup_epoch", "3", "--num_epochs", "3"]
    flags += ["--warmup_type", "warmup", "--lr_rule", "ncr"]  # rules for long runs would leave three epochs no step
    folder = train(tiny_root, tmp_path / "out", *flags)
    assert folder.name == f"tiny_precomp_{method}_{module}_0.2_s0"
    expected = FILES | {"divisions"} if known_methods()[method].divides else FILES
    assert {p.name for p in folder.iterdir()} == expected
    results = read_json(folder / "results.json")
    networks = known_methods()[method].num_networks
    names, final = ({"A", "B", "mean"}, "mean") if networks == 2 else ({"A"}, "A")
    assert set(results["test"]) == names
    assert results["test"][final]["rSum"] > chance() + 40
    assert (results["method"], results["similarity"], results["split"]) == (method, module, "test")
    assert results["noise"]["protocol"] == "caption" and results["noise"]["asked_ratio"] == 0.2
    config = read_json(folder / "config.json")
    assert config["method_name"] == method and config["training"]["num_epochs"] == 3
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    dev = [r for r in records if r["event"] == "dev"]
    assert len(dev) == 6 and max(r[f"dev/{final}/rSum"] for r in dev) == results["dev"][final]["rSum"]
    divided = {r["network"] for r in records if r["event"] == "division"}
    assert divided == (names - {"mean"} if known_methods()[method].divides else set())
    assert all(np.isfinite(v) for r in records for k, v in r.items() if k.startswith("loss/"))
    assert list((folder / "tensorboard").iterdir())

    # evaluation knows everything from the checkpoint alone
    capsys.readouterr()
    output, saved = tmp_path / "r.json", tmp_path / "s.npz"
    checkpoint = folder / "checkpoint_dev_best.pth.tar"
    targets = ["--output", str(output), "--save_sims", str(saved)]
    evaluation.main(["--mode_path", str(checkpoint), "--gpu", "cpu", *targets])
    text = capsys.readouterr().out
    assert f"{results['test'][final]['rSum']:.1f}" in text
    assert f", {results['epoch_title']}, chosen on dev" in text, "one count of epochs everywhere"
    record = read_json(output)
    assert record["results"] == results["test"], "the numbers of training and evaluation are the same"
    assert (record["images"], record["captions"], record["epochs"]) == (IMAGES, CAPTIONS, [results["epoch"]])
    assert (record["num_networks"], record["seeds"], record["chosen_on"]) == (networks, [0], ["dev"])
    with np.load(saved) as sims:
        assert set(sims) == names
        assert all(sims[k].shape == (IMAGES, CAPTIONS) and sims[k].dtype == np.float32 for k in sims)
        if networks == 2:
            np.testing.assert_allclose(sims["mean"], (sims["A"] + sims["B"]) / 2, rtol=1e-6, atol=1e-7)
            assert not np.array_equal(sims["A"], sims["B"])
        again = retrieval(sims[final], np.arange(CAPTIONS) // 5)
    assert again.as_dict() == results["test"][final]


def test_the_dev_split_is_evaluated_as_in_training(trained_folder: Path, checkpoint_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    evaluation.main(["--mode_path", str(checkpoint_path), "--split", "dev", "--output", str(output), "--gpu", "cpu"])
    assert read_json(output)["results"] == read_json(trained_folder / "results.json")["dev"]


@pytest.mark.parametrize("name", ["--saved_model", "--warmup_model_path"])
def test_a_checkpoint_is_tested_without_training(
    tiny_root: Path, trained_folder: Path, checkpoint_path: Path, tmp_path: Path, name: str
) -> None:
    folder = train(tiny_root, tmp_path / "out", name, str(checkpoint_path), "--num_epochs", "0", "--seed", "5")
    assert {p.name for p in folder.iterdir()} == FILES - {"checkpoint_warmup.pth.tar"}
    results = read_json(folder / "results.json")
    assert results["test"] == read_json(trained_folder / "results.json")["test"]
    assert results["dev"] == read_json(trained_folder / "results.json")["dev"]


@pytest.mark.parametrize("name", ["--saved_model", "--warmup_model_path"])
def test_training_goes_on_from_a_checkpoint(tiny_root: Path, trained_folder: Path, tmp_path: Path, name: str) -> None:
    start = trained_folder / "checkpoint_warmup.pth.tar"
    folder = train(tiny_root, tmp_path / "out", name, str(start), "--num_epochs", "1", "--warmup_epoch", "7")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    titles = [r["title"] for r in records if r["event"] == "dev"]
    assert titles == ["start", "epoch 1/1"], "no warm-up, and the start is a candidate"
    assert not (folder / "checkpoint_warmup.pth.tar").exists()
    assert load_checkpoint(start)["epoch"] == 1, "that of the last warm-up epoch"


def test_rows_a_caption_and_tsv_train_the_same(tiny_root: Path, tmp_path: Path) -> None:
    """Another layout of the same pairs gives the same numbers."""
    flags = ["--num_epochs", "1", "--no_co_training"]
    plain = train(tiny_root, tmp_path / "a", *flags)
    other = train(make_tiny_data(tmp_path, repeat_rows=True, tsv=True), tmp_path / "b", *flags)
    assert read_json(plain / "results.json")["test"] == read_json(other / "results.json")["test"]


def test_a_noise_file_is_made_once_and_shared(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "noise.npy"
    flags = ["--warmup_epoch", "0", "--num_epochs", "1", "--no_co_training", "--noise_file"]
    monkeypatch.chdir(tmp_path)
    first = train(tiny_root, tmp_path / "a", *flags, "noise.npy")
    assert "noise index made: noise.npy, protocol caption, ratio 0.2\n" in capsys.readouterr().out
    before = file.read_bytes()
    second = train(tiny_root, tmp_path / "a", *flags, str(file), "--seed", "1", "--noise_seed", "9")
    assert file.read_bytes() == before and "noise index made" not in capsys.readouterr().out
    assert read_json(first / "results.json")["noise"] == read_json(second / "results.json")["noise"]
    stored = load_checkpoint(str(first / "checkpoint_dev_best.pth.tar"))["config"]
    for config in (read_json(first / "config.json"), stored):
        assert config["noise"]["noise_file"] == str(file), "found from any folder"


def test_a_share_of_unknown_words_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_tiny_data(tmp_path)
    file = root / "data" / "tiny_precomp" / "train_caps.txt"
    flags = ["--num_epochs", "1", "--warmup_epoch", "0", "--no_co_training", "--method", "baseline"]
    for strange, share, is_warned in ((8, "1.0", False), (60, "7.5", True)):
        lines = ["red dog qwertz tall"] * strange + ["red dog one tall"] * (200 - strange)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        train(root, tmp_path / "out", *flags)
        said = capsys.readouterr().out
        assert f", {share} % of the words unknown; " in said
        assert ("warning: the vocabulary does not know" in said) == is_warned


def test_of_real_noise_no_share_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_tiny_data(tmp_path, "cc152k_precomp", captions_per_image=1, tsv=True)
    flags = ["--data_name", "cc152k_precomp", "--noise_ratio", "0", "--num_epochs", "1", "--method", "baseline"]
    folder = train(root, tmp_path / "out", *flags)
    assert "40 training pairs, real noise, share unknown, 0.0 % of the words unknown; " in capsys.readouterr().out
    assert read_json(folder / "results.json")["noise"]["measured_ratio"] is None
    path, clean = folder / "checkpoint_dev_best.pth.tar", {"protocol": "none", "asked_ratio": 0.0, "measured_ratio": 0}
    content = load_checkpoint(str(path))
    content["config"]["noise_report"] = clean  # as it was recorded before
    torch.save(content, tmp_path / "older.pth.tar")
    for checkpoint in (path, tmp_path / "older.pth.tar"):
        evaluation.main(["--mode_path", str(checkpoint), "--gpu", "cpu", "--output", str(tmp_path / "r.json")])
        assert "; real noise, share unknown\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--method", "mgcs", "--drift_neighbours", "bank", "--fit_type", "bmm"],
        ["--method", "bicro", "--noise_train", "noise_hard", "--noisy_start", "0", "--warmup_type", "co_teaching"],
        ["--method", "ncr", "--negatives", "anneal", "--anneal_epochs", "2", "--warmup_type", "warmup_sele"],
        ["--module_name", "SAF", "--no-bi_gru", "--num_layers", "2", "--no_imgnorm", "--no_txtnorm"],
        ["--noise_protocol", "image", "--noise_ratio", "0.4", "--soft_margin", "sin", "--lr_rule", "mgcs"],
        ["--noise_ratio", "0", "--batch_size", "33"],
        ["--batch_size", "1000", "--workers", "1"],
    ],
    ids=lambda flags: " ".join(flags[:2]),
)
def test_other_settings_run_through(tiny_root: Path, tmp_path: Path, flags: list[str]) -> None:
    folder = train(tiny_root, tmp_path, *flags)
    assert np.isfinite(read_json(folder / "results.json")["test"]["mean"]["rSum"])


@pytest.mark.parametrize(("size", "warned"), [("200", False), ("201", True)])
def test_a_batch_larger_than_all_pairs_is_said(tiny_root: Path, tmp_path: Path, size: str, warned: bool) -> None:
    config = parse_args(tiny_flags(tiny_root, tmp_path, "--batch_size", size))
    data = run.open_data(config.data, config.noise, config.matcher)
    lines = list(introduction(config, data, torch.device("cpu"), tmp_path))
    assert any(f"--batch_size {size} is more than the 200 training pairs" in line for line in lines) == warned


def test_the_advice_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(config: Any) -> None:
        raise Stopped(2)

    monkeypatch.setattr(run, "train", stopped)
    for level, flags, advice in (
        (None, [], "with --resume"),
        ("1", [], "with --resume (by make: make run ARGS=--resume)"),
        ("1", ["--resume"], "again"),
        (None, ["--saved_model", str(tmp_path)], "again"),
    ):
        monkeypatch.delenv("MAKELEVEL", raising=False)
        if level:
            monkeypatch.setenv("MAKELEVEL", level)
        with pytest.raises(SystemExit) as stop:
            run.main(flags)
        assert stop.value.code == 130
        assert capsys.readouterr().err == f"interrupted, and saved; to go on, give the same command {advice}\n"
