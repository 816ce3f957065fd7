"""The command line is frozen: names and defaults of every flag."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import evaluation
import run
from evaluation import EvaluationConfig
from methods import known_methods
from methods.mgcs import MGCSConfig
from models.precision import ScoringConfig
from runtime.errors import InputError
from runtime.flags import PATHS, OneLineParser, add_flags
from tools.audit.__main__ import AuditConfig
from tools.clip_tuning.config import parse_args as clip_args
from tools.convert.__main__ import ConvertConfig
from tools.extract.__main__ import ExtractConfig
from tools.filter.__main__ import CleanConfig
from tools.report.__main__ import ReportConfig
from tools.search.__main__ import SearchConfig
from training.config import COMMON, build_parser, parse_args
from training.stages import learning_rate

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
    "drift_correction": "both",
    "drift_warmup": False,
    "drift_neighbours": "batch",
    "drift_num_neighbours": 5,
    "drift_own": False,
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

MGCS_COMMAND = """--gpu 0 --workers 4 --data_name f30k_precomp --noise_ratio 0.2 --seed 96 --warmup_epoch 10
    --warmup_type warmup_sele --id train_f30k --warmup_rate 0.5 --p_threshold 0.5 --noise_train train --noise_tem 0.5
    --fit_type bmm --num_epochs 400 --batch_size 96 --soft_margin exponential --grad_clip 2.0 --learning_rate 0.0002"""


def defaults(parser: argparse.ArgumentParser) -> dict[str, object]:
    """Return every flag's default by its name."""
    flags = [a for a in parser._actions if a.dest not in ("help", "help_all")]
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
    assert build_parser().format_help().count("\n  --seed ") == 1


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


def test_a_contradiction_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line is read twice: for the method, and with its defaults."""
    monkeypatch.setattr("sys.argv", ["run.py", "--seed", "1", "--method", "bicro", "--seed=2"])
    config = parse_args()
    assert (config.training.seed, config.method.fit_type) == (2, "bmm")
    assert capsys.readouterr().err.count("--seed 1 and --seed 2 are both given") == 1


def test_the_lineages_defaults() -> None:
    config = parse_args(["--method", "ncr"])
    training, method = config.training, config.method
    assert (training.batch_size, training.num_epochs, training.lr_update, training.learning_rate) == (128, 40, 30, 2e-4)
    assert (training.warmup_epoch, method.margin, config.matcher.module_name) == (10, 0.2, "SGR")
    assert (method.fit_type, method.soft_margin, config.num_networks) == ("gmm", "exponential", 2)


def test_mgcs_public_command_trains_mgcs() -> None:
    """The command names neither the method nor its learning-rate rule; its recipe is the same run."""
    config = parse_args([*MGCS_COMMAND.split(), "--data_path", "D", "--vocab_path", "V"])
    training, method = config.training, config.method
    assert config.method_name == "mgcs" and isinstance(method, MGCSConfig)
    assert [learning_rate(training, epoch) / 2e-4 for epoch in (0, 29, 30, 199, 200, 300, 399)] == pytest.approx(
        [1, 1, 0.5, 0.5**6, 0.5**6 * 0.1, 0.5**10 * 0.01, 0.5**13 * 0.01]
    )
    assert (method.drift_correction, method.drift_neighbours, method.drift_own) == ("both", "batch", False)
    assert (method.fit_type, method.noise_train, method.soft_margin) == ("bmm", "train", "exponential")
    recipe = parse_args(
        [f"@{ROOT / 'recipes/f30k_mgcs_0.2.args'}", "--data_path", "D", "--vocab_path", "V", "--mask_same_image"]
    )
    assert recipe == config


@pytest.mark.parametrize("name", known_methods())
def test_a_methods_own_defaults(name: str, tmp_path: Path) -> None:
    """They are values that the flags take and that the suite does not have; a given flag wins, in a file too."""
    kind, parser = known_methods()[name], build_parser()
    sections = [part for part in vars(parse_args(["--method", name])).values() if is_dataclass(part)]
    found = {flag: value for section in sections for flag, value in vars(section).items()}
    file = tmp_path / "given.args"
    for flag, value in kind.defaults.items():
        assert found[flag] == value != RUN_FLAGS[flag], flag
        assert flag in parser.declared and parser.get_default(flag) == RUN_FLAGS[flag]
        file.write_text(f"--method {name} --{flag} {RUN_FLAGS[flag]}", encoding="utf-8")
        for argv in ([f"--{flag}", str(RUN_FLAGS[flag]), "--method", name], [f"@{file}"]):
            given = parse_args(argv).as_dict()
            assert RUN_FLAGS[flag] in (given["training"].get(flag), given["method"].get(flag)), argv


def test_wrong_defaults_of_a_method_are_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_methods()["ncr"], "defaults", {"no_such_flag": 1})
    with pytest.raises(AssertionError, match="no such flags: no_such_flag"):
        build_parser()
    monkeypatch.setattr(known_methods()["ncr"], "defaults", {"fit_type": "nonsense"})
    with pytest.raises(InputError, match="--fit_type 'nonsense'"):
        parse_args(["--method", "ncr"])


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--method", "ncr"], "hardest"),
        (["--method", "consensus"], "mean"),
        (["--method", "consensus", "--loss", "hinge"], "hardest"),
        (["--method", "mgcs", "--loss", "bounded"], "mean"),
        (["--method", "mgcs", "--loss", "bounded", "--negatives", "anneal"], "anneal"),
        (["--method", "consensus", "--negatives", "hardest"], "hardest"),
    ],
)
def test_contrastive_losses_keep_all_negatives_unless_asked_otherwise(argv: list[str], expected: str) -> None:
    config = parse_args(argv)
    assert config.training.negatives == expected
    assert len(config.warnings()) == ("--negatives" in argv)


@pytest.mark.parametrize(("argument", "expected"), [("--bi_gru", True), ("--no-bi_gru", False)])
def test_bi_gru_has_both_forms(argument: str, expected: bool) -> None:
    assert parse_args([argument]).matcher.bi_gru is expected


def test_an_argument_file_with_comments(tmp_path: Path) -> None:
    file = tmp_path / "some.args"
    file.write_text("# a recipe\n--method ncr --margin 0.3  # wider\n\n--seed 5\n", encoding="utf-8")
    config = parse_args([f"@{file}", "--seed", "6"])
    assert (config.method_name, config.method.margin, config.training.seed) == ("ncr", 0.3, 6)


def test_every_recipe_parses() -> None:
    recipes = sorted((ROOT / "recipes").glob("*.args"))
    assert recipes
    for recipe in recipes:
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
        run.main(["--help_all"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    methods = known_methods()
    assert {"baseline", "ncr", "bicro", "mgcs"} <= set(methods)
    assert f"[{' | '.join(methods)}]" in " ".join(text.split())
    assert all(f"--{name}" in text for name in RUN_FLAGS)
    plain = " ".join(text.split())
    assert "(default: ncr; mgcs: mgcs)" in plain and "(default: hardest; contrastive losses: mean)" in plain


def test_help_is_short() -> None:
    parser = build_parser()
    short = parser.format_help()
    assert set(re.findall(r"^  --(\w+)", short, re.MULTILINE)) == {*COMMON, "help_all"} and len(COMMON) < 25
    assert len(short.splitlines()) < 90 and set(COMMON) <= set(RUN_FLAGS)
    assert parser.format_help() == short and parser.parse_args([]).margin == 0.2, "nothing is changed by it"


def test_help_does_without_torch_and_a_start_says_so_before_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    with pytest.raises(SystemExit):
        run.main(["--help_all"])

    def started(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-X", "importtime", str(ROOT / "run.py"), *flags]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    found = started("--help_all")
    assert found.returncode == 0 and found.stdout.endswith(capsys.readouterr().out)
    assert "torch._meta_registrations" not in found.stdout and "methods.blocks.drift" in found.stdout
    found = started("--margin", "0")
    word, loading = found.stdout.index("starting ..."), found.stdout.index("torch._meta_registrations")
    assert found.returncode == 2 and word < loading
    loaded = {line.rpartition("|")[2].strip() for line in found.stdout.splitlines()}
    assert not loaded & {"sklearn", "scipy.stats", "scipy.special", "nltk", "faiss", "tensorboard", "matplotlib"}


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
        ["--method", "consensus", "--negative_shortlist", "5"],
        ["--learning_rate", "0"],
        ["--learning_rate", "2e4"],
    ],
)
def test_values_that_make_no_sense_together(argv: list[str]) -> None:
    with pytest.raises(InputError, match="--"):
        parse_args(argv)


PATH_FLAGS = """data_path vocab_path token_cache noise_file word_vectors saved_model warmup_model_path output_dir
    mode_path mode_path1 relevance output save_sims images captions texts truth pictures queries image html index input
    ids boxes backbone similarities""".split()


def test_paths_are_told_from_other_texts() -> None:
    """In these `~` is the user's home."""
    found, others = set(), (AuditConfig, SearchConfig, ReportConfig, ConvertConfig, ExtractConfig, CleanConfig)
    for config in (None, EvaluationConfig, *others):
        parser = OneLineParser() if config else build_parser()
        if config:
            add_flags(parser, "some", config)
        named = {name for name, field in parser.declared.items() if field.metadata["metavar"] in PATHS}
        assert named == set(PATH_FLAGS) & {n for n, field in parser.declared.items() if "str" in str(field.type)}
        found |= named
    assert found == set(PATH_FLAGS)


def test_the_readme_names_every_flag() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    missing = [name for name in {**RUN_FLAGS, **EVALUATION_FLAGS} if f"`--{name}`" not in readme]
    assert not missing
