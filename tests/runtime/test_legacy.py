"""Checkpoints of NCR, BiCro, MGCS and SGRAF: read, written, never run."""

from __future__ import annotations

import argparse
import codecs
import io
import os
import pickle
from collections import OrderedDict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.ensemble import restore
from models.matcher import SIMILARITIES, Matcher, MatcherConfig
from runtime import checkpoint as tool
from runtime.checkpoint import load_checkpoint
from runtime.errors import InputError
from runtime.legacy import from_legacy, misfits, to_legacy
from runtime.torch_file import Array, Examined, examine, is_accepted, read_torch_file
from tests.runtime.lineage import SHAPE, SIZES, lineage_content, options_of, small_matcher, state_dicts


def saved(path: Path, content: Any, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def scores(matcher: Matcher) -> torch.Tensor:
    """Score random images against random captions."""
    random = torch.Generator().manual_seed(1)
    regions = torch.randn(5, SHAPE.num_regions, SHAPE.region_dim, generator=random)
    tokens, lengths = (
        torch.randint(0, SHAPE.vocabulary_size, (6, 4), generator=random),
        torch.tensor([4, 3, 4, 2, 3, 4]),
    )
    with torch.no_grad():
        return matcher.eval().similarity(matcher.encode_images(regions), matcher.encode_captions(tokens, lengths))


# -- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
@pytest.mark.parametrize("module_name", ["SGR", "SAF"])
@pytest.mark.parametrize("networks", [1, 2])
def test_networks_come_back_bit_by_bit(tmp_path: Path, module_name: str, networks: int, zipped: bool) -> None:
    matchers = [small_matcher(module_name, seed=k) for k in range(networks)]
    path = saved(tmp_path / "model_best.pth.tar", lineage_content(matchers, module_name=module_name), zipped=zipped)
    checkpoint = load_checkpoint(path)
    restored = restore(checkpoint, str(path))
    assert len(restored) == networks
    for own, theirs in zip(matchers, restored, strict=True):
        assert torch.equal(scores(own), scores(theirs))
    assert networks == 1 or not torch.equal(scores(restored[0]), scores(restored[1]))
    assert (checkpoint["epoch"], checkpoint["vocabulary_digest"]) == (7, None)
    assert checkpoint["config"]["data"] == {"data_name": "tiny_precomp", "data_path": "/gone", "vocab_path": "/gone"}
    assert checkpoint["config"]["training"] == {"seed": 96} and checkpoint["config"]["options"]["margin"] == 0.2
    noise = checkpoint["config"]["noise_report"]
    assert noise == {"protocol": "not recorded", "asked_ratio": 0.2, "measured_ratio": None}


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"bi_gru": False}, {"bi_gru": True}),
        ({"bi_gru": True}, {"bi_gru": False}),
        ({"num_layers": 2}, {"num_layers": 2}),
        ({"no_imgnorm": True}, {"no_imgnorm": True}),
        ({"no_txtnorm": True}, {"no_txtnorm": True}),
        ({"sgr_step": 3}, {"sgr_step": 3}),
    ],
    ids=["one direction", "two directions", "two layers", "no_imgnorm", "no_txtnorm", "three steps"],
)
def test_the_architecture_is_found(tmp_path: Path, changes: dict[str, Any], options: dict[str, Any]) -> None:
    """The tensors say which directions the GRU reads, whatever the option says; only the options know of norms."""
    matcher = small_matcher(**changes)
    path = saved(tmp_path / "c.pth.tar", lineage_content([matcher], **options))
    assert torch.equal(scores(restore(load_checkpoint(path), str(path))[0]), scores(matcher))
    if changes != {"bi_gru": True}:  # the default
        assert not torch.equal(scores(small_matcher()), scores(matcher)), "the change is one"


def test_options_may_be_missing() -> None:
    content = lineage_content([small_matcher("SAF")], module_name="SAF")
    content["opt"] = argparse.Namespace()
    read = from_legacy(content, "x")
    assert read["config"]["matcher"] == {
        **{k: v for k, v in SIZES.items() if k != "sgr_step"},
        **{"module_name": "SAF", "img_dim": 7, "num_layers": 1, "bi_gru": True},
    }
    assert read["config"]["shape"] == {"vocabulary_size": 20, "num_regions": 4, "region_dim": 7}
    assert read["config"]["data"] == {"data_name": None, "data_path": None, "vocab_path": None}


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_and_arrays_of_numpy_are_data(tmp_path: Path, zipped: bool) -> None:
    """As public programs store them: a best rSum, a vector beside SGRAF's three parts (CRCL)."""
    arrays = [np.arange(6.0).reshape(2, 3), np.zeros(0, dtype="i4"), np.asfortranarray(np.ones((2, 3), dtype="?"))]
    scalars = [np.float32(1.5), np.int64(-3), np.bool_(True)]
    content = {**lineage_content([small_matcher()]), "best_rsum": np.float64(12.5), "more": [*arrays, *scalars]}
    path = saved(tmp_path / "n.pth.tar", content, zipped=zipped)
    read = read_torch_file(path)["more"]
    assert all(isinstance(array, Array) for array in read[:3])
    assert read[3:] == [1.5, -3, True] and type(read[5]) is bool
    checkpoint = load_checkpoint(path)
    assert checkpoint["best_rsum"] == 12.5 and checkpoint["left_out"] is None
    assert torch.equal(scores(restore(checkpoint, "x")[0]), scores(small_matcher()))


HEAD = OrderedDict([("mlp.0.weight", torch.ones(2, 3))])


@pytest.mark.parametrize(
    "behind",
    [[HEAD], [torch.ones(9)] * 3, [np.ones(9)]],
    ids=["PC2", "GSC", "array"],
)
@pytest.mark.parametrize("networks", [1, 2])
def test_what_other_programs_put_behind_the_three_parts_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], networks: int, behind: list[Any]
) -> None:
    matchers = [small_matcher(seed=k) for k in range(networks)]
    content = lineage_content(matchers)
    for name in ("model",) if networks == 1 else ("model_A", "model_B"):
        content[name] = [*content[name], *behind]
    path = saved(tmp_path / "c.pth.tar", content)
    for own, theirs in zip(matchers, restore(load_checkpoint(path), "x"), strict=True):
        assert torch.equal(scores(own), scores(theirs))
    told = capsys.readouterr().err
    count = networks * len(behind)
    assert told.count("\n") == 1 and told.startswith(f"note: {path}: ") and f"left out ({count} part(s))" in told


def test_older_names_are_understood() -> None:
    """SCAN calls the GRU `rnn`; DataParallel puts `module.` before every name."""
    matcher = small_matcher()
    content = lineage_content([matcher])
    image, caption, similarity = content["model"]
    old = OrderedDict((name.replace("cap_rnn", "rnn"), value) for name, value in caption.items())
    content["model"] = [
        OrderedDict((f"module.{name}", value) for name, value in part.items()) for part in (image, old, similarity)
    ]
    assert torch.equal(scores(restore(from_legacy(content, "x"), "x")[0]), scores(matcher))


@pytest.mark.parametrize(("agg_func", "pooling"), [("LogSumExp", "lse"), ("Mean", "mean")])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_scans_own_checkpoints(direction: str, agg_func: str, pooling: str) -> None:
    """Two state dicts, since its similarities have no parameters; their settings are options."""
    scan: dict[str, Any] = {"scan_pooling": pooling, "scan_softmax": 7.0, "scan_lse": 3.0}
    matcher = small_matcher(f"SCAN_{direction}", **scan)
    image, caption, _ = state_dicts(matcher)
    told = {"cross_attn": direction, "agg_func": agg_func, "lambda_softmax": 7.0, "lambda_lse": 3.0}
    options = argparse.Namespace(**told, raw_feature_norm="clipped_l2norm", embed_size=6, bi_gru=True)
    read = from_legacy({"epoch": 1, "model": [image, caption], "best_rsum": 1.0, "opt": options}, "x")
    assert torch.equal(scores(restore(read, "x")[0]), scores(matcher))
    options.raw_feature_norm = "softmax"
    with pytest.raises(InputError, match="normalises attention by softmax"):
        from_legacy({"epoch": 1, "model": [image, caption], "opt": options}, "x")
    options.raw_feature_norm, options.agg_func = "clipped_l2norm", "Max"
    with pytest.raises(InputError, match="scan_pooling 'Max'"):
        restore(from_legacy({"epoch": 1, "model": [image, caption], "opt": options}, "x"), "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [*((n, 99) for n in ("embed_size", "word_dim", "img_dim", "sim_dim", "num_layers", "sgr_step", "vocab_size"))]
    + [("module_name", "SAF")],
)
def test_options_that_contradict_the_weights(name: str, value: Any) -> None:
    content = lineage_content([small_matcher()])
    setattr(content["opt"], name, value)
    with pytest.raises(InputError, match=f"x is damaged: its options say {name} {value}, its weights"):
        from_legacy(content, "x")


def test_broken_networks_are_refused() -> None:
    good = lineage_content([small_matcher(), small_matcher(seed=1)])
    with pytest.raises(InputError, match="list of three state dicts"):
        from_legacy({**good, "model_B": good["model_B"][:1]}, "x")
    with pytest.raises(InputError, match="list of three state dicts"):
        from_legacy({**good, "model_B": [1, 2, 3]}, "x")
    with pytest.raises(InputError, match="list of three state dicts"):
        from_legacy({**good, "model_B": [*good["model_B"], "text"]}, "x")
    with pytest.raises(InputError, match="not of the same dimensions"):
        from_legacy({**good, "model_B": state_dicts(small_matcher(sgr_step=1))}, "x")
    with pytest.raises(InputError, match="no tensor"):
        from_legacy({**good, "model_A": [{**good["model_A"][0], "fc.bias": 3}, *good["model_A"][1:]]}, "x")
    with pytest.raises(InputError, match="encoders are not those of the lineage"):
        from_legacy({**good, "model_A": [{}, {}, {}]}, "x")
    lacking = [*good["model_A"][:2], {k: v for k, v in good["model_A"][2].items() if k != "sim_eval_w.bias"}]
    with pytest.raises(InputError, match="(?s)do not fit its own dimensions.*sim_eval_w.bias"):
        restore(from_legacy({"epoch": 1, "model": lacking, "opt": argparse.Namespace()}, "x"), "x")
    with pytest.raises(InputError, match="x holds a network that this suite does not have.*AVE"):
        restore(from_legacy(lineage_content([small_matcher("VSE")], module_name="AVE", sim_dim=None), "x"), "x")


# -- nothing runs ---------------------------------------------------------------------------------------------------


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.mkdir, f"{os.name}.mkdir"), (io.open, "io.open"), (eval, "eval"), (torch.hub.set_dir, "torch.hub.set_dir")],
)
@pytest.mark.parametrize("place", ["beside", "in the options", "in a model"])
def test_a_forbidden_pickle_is_refused_by_name_and_nothing_runs(
    tmp_path: Path, function: Any, name: str, protocol: int, zipped: bool, place: str
) -> None:
    target = tmp_path / "ran"
    arguments = {io.open: (str(target), "w"), eval: (f"__import__('os').mkdir({str(target)!r})",)}
    evil = Calls(function, *arguments.get(function, (str(target),)))
    content = lineage_content([small_matcher(), small_matcher(seed=1)])
    if place == "beside":
        content["extra"] = evil
    elif place == "in the options":
        content["opt"].extra = evil
    else:
        content["model_B"][0]["fc.bias"] = evil
    path = tmp_path / "evil.pth.tar"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=rf"evil.pth.tar is refused: loading it would call .*{name}.*nothing of it"):
        load_checkpoint(path)
    assert not target.exists() and torch.hub.get_dir() != str(target)
    if function in (os.mkdir, io.open, eval):
        torch.load(path, weights_only=False)
        assert target.exists(), "the file does run code where it is let"


TEXT = "x" * 10**5
ODD_ARRAYS: list[tuple[Any, str]] = [
    (np.array([{}], dtype=object), "not of plain numbers"),
    (np.array(["text"]), "not of plain numbers"),
    (np.zeros(2, dtype="f4,i8"), "not of plain numbers"),
    (np.array("2020", dtype="M8[Y]"), "not of plain numbers"),
    (Calls(np.dtype, "f8,O"), "not of plain numbers"),
    (Calls(np.ndarray, (10**12,)), "damaged"),
    (Calls(np.float64(1).__reduce__()[0], np.dtype("f8"), b"123"), "type and bytes do not fit"),
    (Calls(np.zeros(1).__reduce__()[0], np.ndarray, (10**12,), b"b"), "in a way that numpy does not"),
    (Calls(codecs.encode, "text", "punycode"), "in a way that pickle does not"),
    ([Calls(codecs.encode, TEXT, "latin1") for _ in range(3)], "more bytes than it has"),
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("value", "message"), ODD_ARRAYS, ids=range(len(ODD_ARRAYS)))
def test_of_numpy_only_plain_numbers_are_read(tmp_path: Path, value: Any, message: str, zipped: bool) -> None:
    path = saved(tmp_path / "n.pth.tar", {**lineage_content([small_matcher()]), "extra": value}, zipped=zipped)
    with pytest.raises(InputError, match=f"n.pth.tar is not a checkpoint that can be read: .*{message}"):
        load_checkpoint(path)


def test_a_plain_pickle_is_refused_by_name(tmp_path: Path) -> None:
    path, target = tmp_path / "p.pth.tar", tmp_path / "ran"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"opt": Calls(os.mkdir, str(target))}, protocol=protocol))
        with pytest.raises(InputError, match=rf"refused.*{os.name}.mkdir"):
            load_checkpoint(path)
        assert not target.exists()


def test_torchs_own_list_is_asked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that hides from the first look is still refused by the restricted unpickler."""
    path, target = tmp_path / "e.pth.tar", tmp_path / "ran"
    saved(path, {**lineage_content([small_matcher()]), "extra": Calls(os.mkdir, str(target))})
    monkeypatch.setattr("runtime.torch_file.examine", lambda path: Examined())
    with pytest.raises(InputError, match="not a checkpoint that can be read"):
        load_checkpoint(path)
    assert not target.exists()


def test_only_namespace_is_added_to_what_torch_accepts(tmp_path: Path) -> None:
    content = lineage_content([small_matcher()])
    names = examine(saved(tmp_path / "c.pth.tar", content)).names
    assert names and all(is_accepted(name) for name in names)
    assert names == examine(saved(tmp_path / "o.pth.tar", content, zipped=False)).names
    for name in ("argparse.ArgumentParser", "argparse.FileType", "torch.load", "builtins.eval", "torch.EvilStorage"):
        assert not is_accepted(name)
    assert "Namespace" not in str(torch.serialization.get_safe_globals()), "the permission ends with the reading"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_legacy_file_cut_at_any_point(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "c.pth.tar", lineage_content([small_matcher()]), zipped=zipped)
    whole = path.read_bytes()
    for size in [*range(0, 200, 7), *range(200, len(whole), max(1, len(whole) // 60)), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="c.pth.tar is not a checkpoint"):
            load_checkpoint(path)


# -- writing --------------------------------------------------------------------------------------------------------


ODD: dict[str, Any] = {"scan_pooling": "mean", "scan_softmax": 7.0, "dropout": 0.1, "no_txtnorm": True}
"""Settings that the lineage's options do not know, or leave at their defaults."""


def our_checkpoint(module_name: str = "SGR", networks: int = 2) -> tuple[list[Matcher], dict[str, Any]]:
    """Return networks and what run.py saves of them."""
    matchers = [small_matcher(module_name, seed=k, **ODD) for k in range(networks)]
    config = {
        "data": {"data_name": "tiny_precomp", "data_path": None, "vocab_path": "/v"},
        "noise": {"noise_ratio": 0.4, "noise_protocol": "caption", "noise_seed": 123, "noise_file": None},
        "matcher": asdict(MatcherConfig(module_name=module_name, **SIZES, **ODD)),
        "method_name": "mgcs",
        "method": {"margin": 0.2, "fit_type": "gmm"},
        "training": {"seed": 3, "batch_size": 16, "warmup_model_path": None},
        "shape": vars(SHAPE),
    }
    return matchers, {
        "format": 1,
        "epoch": 4,
        "config": config,
        "vocabulary_digest": "abc",
        "networks": [matcher.state_dict() for matcher in matchers],
        "dev": {"A": {"rSum": 1.0}, "mean": {"rSum": 321.0}},
        "chosen_on": "dev",
    }


@pytest.mark.parametrize("networks", [1, 2])
def test_the_exported_layout_is_the_lineages(tmp_path: Path, networks: int) -> None:
    """Read as their programs do: unpickled as it stands, options by attribute, state dicts by place."""
    matchers, checkpoint = our_checkpoint(networks=networks)
    theirs = torch.load(saved(tmp_path / "c.pth.tar", to_legacy(checkpoint)), weights_only=False)
    by_hand = lineage_content(matchers)
    assert set(theirs) == set(by_hand) and (theirs["epoch"], theirs["best_rsum"]) == (4, 321.0)
    for name in ("model",) if networks == 1 else ("model_A", "model_B"):
        assert type(theirs[name]) is list and [list(p) for p in theirs[name]] == [list(p) for p in by_hand[name]]
        for part, expected in zip(theirs[name], by_hand[name], strict=True):
            assert type(part) is OrderedDict and all(torch.equal(part[k], expected[k]) for k in expected)
    options = theirs["opt"]
    assert type(options) is argparse.Namespace
    same = set(options_of()) - {"noise_ratio", "seed", "data_path", "vocab_path", *ODD}
    assert {k: v for k, v in options_of().items() if k in same} == {k: getattr(options, k) for k in same}
    assert (options.noise_ratio, options.seed, options.data_path, options.vocab_path) == (0.4, 3, "", "/v")


@pytest.mark.parametrize("module_name", SIMILARITIES)
@pytest.mark.parametrize("networks", [1, 2])
def test_round_trip(tmp_path: Path, module_name: str, networks: int) -> None:
    matchers, checkpoint = our_checkpoint(module_name, networks)
    path, output = saved(tmp_path / "ours.pth.tar", checkpoint), tmp_path / "theirs.pth.tar"
    tool.main(["export", str(path), "--output", str(output)])
    back = load_checkpoint(output)
    for own, theirs in zip(matchers, restore(back, "x"), strict=True):
        assert torch.equal(scores(own), scores(theirs))
    assert back["config"]["shape"] == checkpoint["config"]["shape"]
    assert MatcherConfig(**back["config"]["matcher"]) == replace(
        MatcherConfig(**checkpoint["config"]["matcher"]), img_dim=SHAPE.region_dim
    )
    again = tmp_path / "again.pth.tar"
    tool.main(["export", str(output), "--output", str(again)])
    assert load_checkpoint(again)["config"] == back["config"]


def test_what_their_programs_cannot_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "VSE is unknown to SGRAF's code" in misfits(our_checkpoint("VSE")[1])[0]
    assert misfits(our_checkpoint("SGR")[1]) == ["their code fixes 36 regions an image; this network has 4"]
    path, output = saved(tmp_path / "c.pth.tar", our_checkpoint("VSE")[1]), tmp_path / "o.pth.tar"
    tool.main(["export", str(path), "--output", str(output)])
    text = capsys.readouterr().out
    assert f"{output}: 2 network(s)" in text and "note: VSE is unknown" in text


# -- the command ----------------------------------------------------------------------------------------------------


def test_inspect_tells_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matcher = small_matcher()
    path = saved(tmp_path / "c.pth.tar", lineage_content([matcher, small_matcher(seed=1)], batch_size=77))
    tool.main(["inspect", str(path)])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    count = sum(p.numel() for p in matcher.parameters())
    assert "accepted argparse.Namespace" in lines and "batch_size 77" in lines
    for line in ("epoch 7", "networks 2", "similarity SGR", "image 4 regions x 7 dimensions", "best rSum there 123.4"):
        assert line in lines
    assert any(line.startswith(f"parameters of each {count:,} (") for line in lines)
    assert "vocabulary 20 words, digest not recorded" in lines and "noise protocol not recorded" in lines

    tool.main(["inspect", str(saved(path, our_checkpoint()[1]))])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "chosen on dev" in lines and "options, training" in lines and "batch_size 16" in lines
    assert "vocabulary 20 words, digest abc" in lines and "best rSum there 321.0" in lines


def test_inspect_names_what_is_unsafe_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "ran"
    content = {**lineage_content([small_matcher()]), "extra": Calls(os.mkdir, str(target))}
    path = saved(tmp_path / "c.pth.tar", content)
    with pytest.raises(SystemExit) as stopped:
        tool.main(["inspect", str(path)])
    told = capsys.readouterr()
    assert stopped.value.code == 2 and told.err.count("\n") == 1 and "mkdir" in told.err
    assert f"REFUSED {os.name}.mkdir" in [" ".join(line.split()) for line in told.out.splitlines()]
    assert not target.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "missing.pth.tar"], "no checkpoint at missing.pth.tar"),
        (["inspect", "c", "--output", "x"], "--output names the file"),
        (["export", "c"], "--output names the file"),
        (["explain", "c"], "explain"),
        ([], "action"),
    ],
)
def test_wrong_commands_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        tool.main(words)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and message in error
