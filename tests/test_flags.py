"""The command line: every flag of every command stands in docs/flags.md, and what flags mean together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import run
from evaluation import EvaluationConfig
from methods import known_methods
from methods.mgcs import MGCSConfig
from runtime.errors import InputError
from runtime.flags import PATHS, OneLineParser, add_flags
from tests.flags_page import PAGE, page
from tools.audit.__main__ import AuditConfig
from tools.clip_tuning.config import parse_args as clip_args
from tools.convert.__main__ import ConvertConfig
from tools.extract.__main__ import ExtractConfig
from tools.filter.__main__ import CleanConfig
from tools.report.__main__ import ReportConfig
from tools.search.__main__ import SearchConfig
from training.config import COMMON, build_parser, parse_args
from training.schedule import learning_rate

ROOT = Path(__file__).resolve().parents[1]

LINEAGE = """--gpu 0 --workers 2 --data_name some_precomp --noise_ratio 0.2 --data_path /data --vocab_path /vocab
    --seed 1 --warmup_epoch 10 --warmup_type warmup_sele --id one --warmup_rate 0.5 --p_threshold 0.5 --noise_train
    noise_soft --noise_tem 0.5 --fit_type bmm --num_epochs 40 --batch_size 128 --soft_margin exponential --grad_clip 2.0
    --learning_rate 0.0002 --lr_update 30 --log_step 100 --margin 0.2 --img_dim 2048 --word_dim 300 --embed_size 1024
    --sim_dim 256 --num_layers 1 --bi_gru --no_imgnorm --no_txtnorm --module_name SGR --sgr_step 3
    --noise_file noise.npy --no_co_training --warmup_model_path warm.pth.tar --output_dir out"""

MGCS_COMMAND = """--gpu 0 --workers 4 --data_name f30k_precomp --noise_ratio 0.2 --seed 96 --warmup_epoch 10
    --warmup_type warmup_sele --id train_f30k --warmup_rate 0.5 --p_threshold 0.5 --noise_train train --noise_tem 0.5
    --fit_type bmm --num_epochs 400 --batch_size 96 --soft_margin exponential --grad_clip 2.0 --learning_rate 0.0002"""


def test_the_flags_are_those_of_their_page() -> None:
    """No flag of any command comes, goes or changes its default unseen."""
    assert page() == PAGE.read_text(encoding="utf-8"), (
        "the flags are not those of docs/flags.md: run python -m tests.flags_page, and look at the difference"
    )


def test_a_shared_flag_is_added_once() -> None:
    names = [name for action in build_parser()._actions for name in action.option_strings]
    assert len(names) == len(set(names)) and not [a.dest for a in build_parser()._actions if not a.help]
    assert build_parser().format_help().count("\n  --seed ") == 1


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
    monkeypatch.setattr("sys.argv", ["run.py", "--seed", "1", "--method", "bicro", "--seed=2"])
    config = parse_args()
    assert (config.training.seed, config.method.fit_type) == (2, "bmm")
    assert capsys.readouterr().err.count("--seed 1 and --seed 2 are both given") == 1


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
        usual = parser.get_default(flag)
        assert flag in parser.declared and found[flag] == value != usual, flag
        file.write_text(f"--method {name} --{flag} {usual}", encoding="utf-8")
        for argv in ([f"--{flag}", str(usual), "--method", name], [f"@{file}"]):
            given = parse_args(argv).as_dict()
            assert usual in (given["training"].get(flag), given["method"].get(flag)), argv


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


def test_every_recipe_parses() -> None:
    recipes = sorted((ROOT / "recipes").glob("*.args"))
    assert recipes
    for recipe in recipes:
        if recipe.name.startswith("clip_"):
            assert clip_args([f"@{recipe}"]).pairs.data_name, recipe.name
        else:
            assert parse_args([f"@{recipe}"]).data.data_name, recipe.name


def test_help_is_short() -> None:
    parser = build_parser()
    short = parser.format_help()
    assert set(re.findall(r"^  --(\w+)", short, re.MULTILINE)) == {*COMMON, "help_all"} and len(COMMON) < 25
    assert len(short.splitlines()) < 90 and set(COMMON) <= set(parser.declared)
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
    assert "torch._meta_registrations" not in found.stdout and "methods.blocks.consensus" in found.stdout
    found = started("--margin", "0")
    word, loading = found.stdout.index("starting ..."), found.stdout.index("torch._meta_registrations")
    assert found.returncode == 2 and word < loading
    loaded = {line.rpartition("|")[2].strip() for line in found.stdout.splitlines()}
    assert not loaded & {"sklearn", "scipy.stats", "scipy.special", "nltk", "faiss", "tensorboard", "matplotlib"}


@pytest.mark.parametrize(
    "argv",
    [
        ["--saved_model", "a", "--warmup_model_path", "b"],
        ["--no_co_training", "--warmup_type", "co_teaching"],
        ["--margin", "0"],
    ],
)
def test_values_that_make_no_sense_together(argv: list[str]) -> None:
    with pytest.raises(InputError, match="--"):
        parse_args(argv)


PATH_FLAGS = """data_path vocab_path noise_file word_vectors saved_model warmup_model_path output_dir
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


def test_the_name_of_a_run() -> None:
    assert parse_args([]).run_name() == "emoji_precomp_mgcs_SGR_0_s0"
    argv = ["--method", "ncr", "--module_name", "SAF", "--noise_ratio", "0.4", "--seed", "3", "--id", "x"]
    assert parse_args(argv).run_name() == "emoji_precomp_ncr_SAF_0.4_s3_x"


def test_settings_are_plain_values() -> None:
    config = parse_args(["--method", "bicro"])
    content = config.as_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["method_name"] == "bicro" and content["training"]["batch_size"] == 128
    assert set(content) == {"data", "noise", "matcher", "method_name", "method", "training", "scoring", "words"}


def test_every_method_is_built_with_its_own_config() -> None:
    for name, method in known_methods().items():
        config = parse_args(["--method", name, "--p_threshold", "0.3"])
        built = config.build_method()
        assert type(built) is method and type(config.method) is method.Config and built.config.p_threshold == 0.3
        assert config.build_method() is not built, "one object a network"
