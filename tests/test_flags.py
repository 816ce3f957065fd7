"""The command line is frozen: names and defaults of every flag."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import evaluation
import run
from evaluation import EvaluationConfig
from methods import known_methods
from models.precision import ScoringConfig
from runtime.errors import InputError
from runtime.flags import OneLineParser, add_flags
from tools.clip_tuning.config import parse_args as clip_args
from training.config import build_parser, parse_args

ROOT = Path(__file__).resolve().parents[1]

RUN_FLAGS = {
    # data
    "data_name": "emoji_precomp",
    "data_path": None,
    "vocab_path": None,
    "token_cache": None,
    # noise
    "noise_ratio": 0.0,
    "noise_protocol": "caption",
    "noise_seed": 123,
    "noise_file": None,
    # network
    "module_name": "SGR",
    "img_dim": None,
    "word_dim": 300,
    "embed_size": 1024,
    "sim_dim": 256,
    "num_layers": 1,
    "sgr_step": 3,
    "dropout": 0.4,
    "bi_gru": True,
    "no_imgnorm": False,
    "no_txtnorm": False,
    "word_vectors": None,
    "scan_lse": None,
    "scan_pooling": "lse",
    "scan_softmax": None,
    # training
    "warmup_type": "warmup",
    "warmup_rate": 0.3,
    "warmup_epoch": 10,
    "num_epochs": 40,
    "batch_size": 128,
    "learning_rate": 2e-4,
    "lr_update": 30,
    "lr_rule": "ncr",
    "grad_clip": 2.0,
    "negatives": "hardest",
    "anneal_epochs": 10,
    "negative_shortlist": 0,
    "length_window": 1,
    "precision": "fp32",
    "compile": False,
    "noisy_start": 0.5,
    "side_by_side": False,
    "no_co_training": False,
    "remove_noise": False,
    "validate_every": 1,
    "saved_model": None,
    "warmup_model_path": None,
    "save_minutes": 10.0,
    "resume": False,
    "on_nan": "stop",
    "seed": 0,
    "deterministic": False,
    "accumulate": 1,
    "gpu": "0",
    "workers": 0,
    "log_step": 50,
    "id": None,
    "output_dir": "output",
    # method
    "method": "mgcs",
    "loss": "method",
    "temperature": 0.07,
    "bound": None,
    "signal": "method",
    "refine": "method",
    "mask_matches": False,
    "neighbours": 10,
    "neighbour_votes": 2,
    "neighbour_space": "network",
    "signal_memory": 0.3,
    "margin": 0.2,
    "soft_margin": "exponential",
    "mask_same_image": True,
    "fit_type": "gmm",
    "p_threshold": 0.5,
    "noise_train": "train",
    "noise_tem": 0.5,
    "drift_correction": "division",
    "drift_warmup": False,
    "drift_neighbours": "bank",
    "drift_num_neighbours": 5,
    "drift_own": True,
    "drift_gradient": True,
    "drift_negatives": "mean",
    "drift_margin": 0.04,
    "drift_beta": 0.2,
    "drift_delta": 0.5,
    "drift_balance": None,
    "mode_starts": 5,
    "min_separation": 1.82,
    "mode_prior": "equal",
    "margin_policy": "separation",
    "image_margin": 0.3,
    "text_margin": 0.2,
    "margin_kappa": 1.0,
    "margin_lambda": 1.0,
    "margin_min": 0.05,
    "margin_max": 0.6,
    "refit_every": 1,
    "filter_pool": "full",
    "no_filter": False,
}
EVALUATION_FLAGS = {
    "mode_path": None,
    "mode_path1": None,
    "data_name": None,
    "data_path": None,
    "vocab_path": None,
    "split": "test",
    "output": None,
    "save_sims": None,
    "gpu": "0",
    "precision": "fp32",
    "compile": False,
    "shortlist": 0,
    "shortlist_check": 1_000_000,
    "relevance": None,
}
LINEAGE = """--gpu 0 --workers 2 --data_name some_precomp --noise_ratio 0.2 --data_path /data --vocab_path /vocab
    --seed 1 --warmup_epoch 10 --warmup_type warmup_sele --id one --warmup_rate 0.5 --p_threshold 0.5 --noise_train
    noise_soft --noise_tem 0.5 --fit_type bmm --num_epochs 40 --batch_size 128 --soft_margin exponential --grad_clip 2.0
    --learning_rate 0.0002 --lr_update 30 --log_step 100 --margin 0.2 --img_dim 2048 --word_dim 300 --embed_size 1024
    --sim_dim 256 --num_layers 1 --bi_gru --no_imgnorm --no_txtnorm --module_name SGR --sgr_step 3
    --noise_file noise.npy --no_co_training --warmup_model_path warm.pth.tar --output_dir out"""


def defaults(parser: argparse.ArgumentParser) -> dict[str, object]:
    """Return every flag's default by its name."""
    flags = [a for a in parser._actions if a.dest != "help"]
    assert all(a.option_strings[0] == f"--{a.dest}" for a in flags)
    return {a.dest: a.default for a in flags}


def test_the_flags_of_run_are_frozen() -> None:
    assert defaults(build_parser()) == RUN_FLAGS


def test_the_flags_of_evaluation_are_frozen() -> None:
    parser = OneLineParser()
    add_flags(parser, "evaluation", EvaluationConfig)
    add_flags(parser, "scoring", ScoringConfig)
    assert defaults(parser) == EVALUATION_FLAGS


def test_a_shared_flag_is_added_once() -> None:
    names = [name for action in build_parser()._actions for name in action.option_strings]
    assert len(names) == len(set(names))
    assert build_parser().format_help().count("\n  --margin ") == 1


def test_every_flag_has_help() -> None:
    assert not [a.dest for a in build_parser()._actions if not a.help]


def test_the_lineages_command_is_understood() -> None:
    config = parse_args(LINEAGE.split())
    assert config.data.data_name == "some_precomp"
    assert (config.noise.noise_ratio, config.noise.noise_file) == (0.2, "noise.npy")
    assert (config.method.fit_type, config.method.noise_train) == ("bmm", "noise_soft")  # type: ignore[attr-defined]
    assert (config.training.warmup_type, config.training.warmup_rate, config.training.seed) == ("warmup_sele", 0.5, 1)
    assert config.training.warmup_model_path == "warm.pth.tar"
    assert config.matcher.no_imgnorm and config.matcher.no_txtnorm and config.matcher.bi_gru
    assert config.num_networks == 1
    assert parse_args(["--saved_model", "best.pth.tar"]).training.saved_model == "best.pth.tar"


def test_the_lineages_defaults() -> None:
    config = parse_args([])
    training, method = config.training, config.method
    assert (training.batch_size, training.num_epochs, training.lr_update, training.learning_rate) == (128, 40, 30, 2e-4)
    assert (training.warmup_epoch, method.margin, config.matcher.module_name) == (10, 0.2, "SGR")
    assert (method.fit_type, method.soft_margin, config.num_networks) == ("gmm", "exponential", 2)


@pytest.mark.parametrize(("argument", "expected"), [("--bi_gru", True), ("--no-bi_gru", False)])
def test_bi_gru_has_both_forms(argument: str, expected: bool) -> None:
    assert parse_args([argument]).matcher.bi_gru is expected


def test_an_argument_file_with_comments(tmp_path: Path) -> None:
    file = tmp_path / "some.args"
    file.write_text("# a recipe\n--method ncr --margin 0.3  # wider\n\n--seed 5\n", encoding="utf-8")
    config = parse_args([f"@{file}", "--seed", "6"])
    assert (config.method_name, config.method.margin, config.training.seed) == ("ncr", 0.3, 6)


def test_every_recipe_parses() -> None:
    for recipe in sorted((ROOT / "recipes").glob("*.args")):
        if recipe.name.startswith("clip_"):
            assert clip_args([f"@{recipe}"]).pairs.data_name, recipe.name
        else:
            assert parse_args([f"@{recipe}"]).data.data_name, recipe.name


def test_abbreviations_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_args(["--batch", "8"])
    assert stop.value.code == 2 and "--batch" in capsys.readouterr().err


def test_help_names_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    methods = known_methods()
    assert {"baseline", "ncr", "bicro", "mgcs"} <= set(methods)
    assert f"[{' | '.join(methods)}]" in " ".join(text.split())
    assert all(f"--{name}" in text for name in RUN_FLAGS)


def test_help_of_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluation.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in EVALUATION_FLAGS)


@pytest.mark.parametrize(
    "argv",
    [
        ["--saved_model", "a", "--warmup_model_path", "b"],
        ["--no_co_training", "--warmup_type", "co_teaching"],
        ["--margin", "0"],
        ["--warmup_rate", "0"],
        ["--dropout", "1"],
        ["--lr_update", "0"],
        ["--learning_rate", "nan"],
    ],
)
def test_values_that_make_no_sense_together(argv: list[str]) -> None:
    with pytest.raises(InputError, match="--"):
        parse_args(argv)


def test_the_readme_names_every_flag() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    missing = [name for name in {**RUN_FLAGS, **EVALUATION_FLAGS} if f"`--{name}`" not in readme]
    assert not missing
