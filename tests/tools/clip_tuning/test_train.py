"""Training end to end on a made-up problem: every row, resuming, what the filter is worth, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from safetensors.torch import load_file

from runtime.errors import InputError
from tests.tools.clip_tuning.made_up import colour_flags, make_colours
from tests.tools.conftest import ErrorOf
from tools.clip_tuning import __main__ as command
from tools.clip_tuning import ablation, evaluate
from tools.clip_tuning.config import CLIP_METHODS, ClipRunConfig, parse_args
from tools.clip_tuning.trainer import STATE, ClipTrainer


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The problem's folder; tests only read it."""
    return make_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller problem of that kind, for what need not be learnt; tests only read it."""
    return make_colours(tmp_path_factory.mktemp("few"), copies=1, held_out=16)


@pytest.fixture(scope="module")
def rows(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of three rows of the ablation; tests only read it."""
    output = tmp_path_factory.mktemp("rows")
    flags = colour_flags(colours, output, "--pretrain_epochs", "8", "--num_epochs", "4")
    ablation.main([*flags, "--rows", "dsdmr,triplet"])
    return output


def train(config: ClipRunConfig) -> dict[str, Any]:
    return ClipTrainer.start(config).train()


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def short(few: Path, output: Path, *extra: str) -> ClipRunConfig:
    """Return the settings of a run of two epochs of pretraining and two of fine-tuning, of four steps each."""
    flags = ("--pretrain_epochs", "2", "--num_epochs", "2", "--batch_size", "64", "--min_separation", "0", *extra)
    return parse_args(colour_flags(few, output, *flags))


# -- what it is worth ------------------------------------------------------------------------


def test_the_filter_finds_the_mismatches_and_filtered_training_beats_plain_training(rows: Path) -> None:
    found, plain = (results(rows / f"clip_train_{name}_0.4_s0") for name in ("dsdmr", "triplet"))
    assert found["noise"]["measured_ratio"] == pytest.approx(0.4, abs=0.01)
    first, after = found["first_filter"], found["after_training"]
    assert first["auc"] > 0.9 and first["residual_noise"] < 0.15 and first["recall"] > 0.8
    assert after["residual_noise"] < first["residual_noise"] and after["separation"] > first["separation"]
    assert 0.5 < first["share_kept"] < 0.7
    assert found["test"]["rSum"] > plain["test"]["rSum"] + 10
    assert after["auc"] > plain["after_training"]["auc"] + 0.05
    assert plain["first_filter"] is None


def test_rows_share_one_pretraining_and_are_not_repeated(
    rows: Path, colours: Path, capsys: pytest.CaptureFixture[str], error_of: ErrorOf
) -> None:
    base = rows / "clip_train_zero_shot_0.4_s0"
    config = json.loads((rows / "clip_train_dsdmr_0.4_s0" / "config.json").read_text())
    assert config["model"]["clip"] == str(base / "pretrained") and config["tuning"]["pretrain_epochs"] == 0
    times = {path: path.stat().st_mtime_ns for path in rows.rglob("results.json")}
    assert len(times) == 3
    flags = colour_flags(colours, rows, "--pretrain_epochs", "8", "--num_epochs", "4")
    capsys.readouterr()
    ablation.main([*flags, "--rows", "dsdmr,triplet"])
    assert {path: path.stat().st_mtime_ns for path in rows.rglob("results.json")} == times
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[2:]] == ["dsdmr", "triplet"]
    other = error_of(ablation.main, [*flags, "--rows", "dsdmr", "--batch_size", "64"])
    assert "holds a run with other settings" in other
    assert "--rows full unknown; known: dsdmr" in error_of(ablation.main, [*flags, "--rows", "dsdmr,full"])


def test_what_a_run_leaves(rows: Path, colours: Path, tmp_path: Path) -> None:
    folder = rows / "clip_train_dsdmr_0.4_s0"
    names = {path.name for path in folder.iterdir()}
    assert {"results.json", "config.json", "metrics.jsonl", "model", STATE, "tensorboard"} == names
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["event"] for r in records].count("filter") == 5
    dev = [r["dev/rSum"] for r in records if r["event"] == "dev"]
    found = results(folder)
    assert found["dev"]["rSum"] == max(dev) and dev.index(max(dev)) + 1 == found["epoch"]
    flags = ["--clip", str(folder / "model"), "--test_pairs", str(colours / "test.csv"), "--gpu", "cpu"]
    evaluate.main([*flags, "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["results"] == found["test"], "the saved model was tested"


def test_an_ablation_goes_on_where_it_was(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], error_of: ErrorOf
) -> None:
    """A row that was interrupted is resumed, with the settings that the ablation gave it."""
    flags = colour_flags(few, tmp_path, "--pretrain_epochs", "2", "--num_epochs", "1", "--rows", "contrastive")
    base = parse_args([*flags[:-2], "--clip_method", "zero_shot"])
    assert ClipTrainer.start(base).train(stop_after=1) == {}
    ablation.main(flags)
    assert capsys.readouterr().out.count("pretraining 2/2") == 1
    assert {path.name for path in tmp_path.iterdir()} == {
        "ablation.json",
        "clip_train_zero_shot_0.4_s0",
        "clip_train_contrastive_0.4_s0",
    }
    cut = tmp_path / "clip_train_triplet_0.4_s0"
    cut.mkdir()
    cut_off = "was cut off before its first epoch was done; remove the folder"
    assert cut_off in error_of(ablation.main, [*flags[:-1], "triplet"])


# -- every row, every setting ------------------------------------------------------------------------


SETTINGS = {
    "dsdmr": ("--margin_policy", "posterior", "--augment", "1", "--negatives", "mean"),
    "filter_only": ("--plain_loss", "contrastive"),
    "zero_shot": ("--noise_ratio", "0"),
    "loss_only": ("--precision", "bf16", "--workers", "2"),
}


@pytest.mark.parametrize("method", CLIP_METHODS)
def test_every_row_runs(few: Path, tmp_path: Path, method: str) -> None:
    found = train(short(few, tmp_path, "--clip_method", method, *SETTINGS.get(method, ())))
    assert found["clip_method"] == method and 0 < found["test"]["rSum"] <= 600
    assert ("residual_noise" in found["after_training"]) == (method != "zero_shot"), "without noise nothing is known"
    assert (found["first_filter"] is not None) == CLIP_METHODS[method].needs_modes
    (folder,) = tmp_path.iterdir()
    unchanged = all(
        torch.equal(weight, weights(folder / "pretrained")[name]) for name, weight in weights(folder / "model").items()
    )
    assert unchanged == (method == "zero_shot")


def test_learning_rates(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up and down a cosine in pretraining, a tenth after lr_update epochs of fine-tuning."""
    seen: list[float] = []

    def record(model: Any, optimiser: torch.optim.Optimizer, *rest: Any, **named: Any) -> float:
        seen.append(optimiser.param_groups[0]["lr"])
        return 0.0

    monkeypatch.setattr("tools.clip_tuning.trainer.train_step", record)
    train(short(few, tmp_path, "--pretrain_epochs", "8", "--lr_update", "1", "--clip_method", "triplet"))
    rates = np.array(seen)
    assert len(rates) == 10 * 4
    rise, fall, tuning = rates[:4], rates[3:32], rates[32:]
    assert (np.diff(rise) > 0).all() and (np.diff(fall) < 0).all() and 0 < rates[0] < 1e-3 and rates[31] < 1e-4
    assert rates.max() == pytest.approx(3e-3, rel=0.05)
    np.testing.assert_allclose(tuning, [1e-3] * 4 + [1e-4] * 4)


# -- resuming ------------------------------------------------------------------------


def interrupted(config: ClipRunConfig, epochs: int) -> Path:
    """Train so many epochs; return the run's folder."""
    trainer = ClipTrainer.start(config)
    assert trainer.train(stop_after=epochs) == {}
    return trainer.folder


@pytest.mark.parametrize("epochs", [1, 3])
def test_resumed_equals_uninterrupted(few: Path, tmp_path: Path, epochs: int) -> None:
    extra = ("--refit_every", "2", "--augment", "1")
    whole = ClipTrainer.start(short(few, tmp_path / "whole", *extra))
    expected = whole.train()
    folder = interrupted(short(few, tmp_path / "parts", *extra), epochs)
    (folder / "metrics.jsonl").open("a").write('{"event": "epoch", "step": 99}\n')  # of an epoch that was cut off
    train(short(few, tmp_path / "parts", *extra, "--resume"))
    found = results(folder)
    different = {name for name in expected if found[name] != json.loads(json.dumps(expected[name]))}
    assert different == {"seconds"}
    for name in ("model", "pretrained"):
        one, two = weights(folder / name), weights(whole.folder / name)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    lines = [
        [json.loads(text) for text in (f / "metrics.jsonl").read_text().splitlines()] for f in (folder, whole.folder)
    ]
    assert lines[0] == lines[1]


def test_what_cannot_be_resumed(few: Path, tmp_path: Path, error_of: ErrorOf) -> None:
    given = ("--pretrain_epochs", "1", "--num_epochs", "1")
    common = colour_flags(few, tmp_path, "--batch_size", "64", "--min_separation", "0", *given, "--resume")

    def line(*more: str) -> str:
        return error_of(command.main, [*common, *more])

    folder = interrupted(short(few, tmp_path, *given), 1)
    assert "holds a run with other settings: batch_size 64 -> 77" in line("--batch_size", "77")
    state = (folder / STATE).read_bytes()
    (folder / STATE).write_bytes(state[: len(state) // 2])
    assert f"{STATE} is damaged" in line()
    (folder / STATE).unlink()
    assert "cut off before its first epoch was done" in line()
    (folder / STATE).write_bytes(state)
    settings = (folder / "config.json").read_text()
    for content in ("{", "[]", '{"pairs": 1}'):
        (folder / "config.json").write_text(content)
        assert "config.json cannot be read" in line()
    (folder / "config.json").write_text(settings)
    train(short(few, tmp_path, *given, "--resume"))
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "gone on with in its own folder"


# -- wrong input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--clip_method", "dsdmr"), "give a trained folder as --clip, or --pretrain_epochs with --clip tiny"),
        (("--train_pairs", "none.json", "--clip_method", "triplet"), "none.json cannot be read"),
        (("--clip", "nowhere"), "nowhere is no folder"),
        (("--clip_method", "clip"), "--clip_method 'clip' is unknown; known: dsdmr, loss_only"),
        (("--batch_size", "1"), "--batch_size 1 is out of range"),
        (("--augment", "2"), "--augment 2.0 is out of range"),
        (("--noise_ratio", "1"), "--noise_ratio 1.0 is out of range"),
        (("--data_name", "a/b"), "must be a folder's name"),
    ],
)
def test_wrong_input_is_told_before_training(few: Path, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(parse_args(colour_flags(few, tmp_path, *flags)))
    assert not list(tmp_path.iterdir())
