"""From flags to a run's settings."""

from __future__ import annotations

import json

from methods import known_methods
from training.config import parse_args


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


def test_the_number_of_networks() -> None:
    assert parse_args([]).num_networks == 2
    assert parse_args(["--no_co_training"]).num_networks == 1
