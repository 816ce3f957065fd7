"""evaluation.py: tables and records, several checkpoints, other programs' checkpoints, `--relevance`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import evaluation
from data_utils import catalog
from models import ensemble
from models.ranks import RECALLS, Ranks, Retrieval, folds_of, mean_retrieval, retrieval
from models.relevance import relevance_result
from runtime import checkpoint as checkpoint_tool
from runtime.errors import InputError
from tests.test_run import train
from tests.tiny import make_tiny_data
from vocab.vocabulary import Vocabulary

IMAGES, CAPTIONS = 8, 40


@pytest.fixture(scope="module")
def sgr_path(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of two small SGR networks; tests only read it."""
    flags = ["--module_name", "SGR", "--num_epochs", "1", "--warmup_epoch", "1"]
    return train(tiny_root, tmp_path_factory.mktemp("sgr"), *flags) / "checkpoint_dev_best.pth.tar"


class Evaluated:
    """What an evaluation printed and wrote."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], path: Path, *flags: str) -> None:
        output, saved = folder / "record.json", folder / "sims.npz"
        capsys.readouterr()
        targets = ["--output", str(output), "--save_sims", str(saved)]
        evaluation.main(["--mode_path", str(path), "--gpu", "cpu", *targets, *flags])
        self.text = capsys.readouterr().out
        self.record: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        with np.load(saved) as content:
            self.sims = dict(content)


def test_the_widest_tables_fit_a_terminal() -> None:
    wide = Ranks(recall=dict.fromkeys(RECALLS, 100.0), median_rank=14999.0, mean_rank=14999.0)
    names = ("A", "B1", "mean", "dsdmr, epoch 12")
    by_ids = evaluation.result_table("5000-image\nfolds, mean", dict.fromkeys(names, Retrieval(wide, wide)))
    many = dict.fromkeys((*(f"R@{k}" for k in RECALLS), "mAP@R", "R-Precision"), 100.0)
    by_file = evaluation.relevance_table("network", dict.fromkeys(("A1", "mean"), {"i2t": many, "t2i": many}))
    lines = [line for made in (by_ids, by_file) for line in made.splitlines()]
    assert lines[1].split()[:3] == ["folds,", "mean", "R@1"] and "14999" in lines[3]
    assert max(map(len, lines)) <= 80


# -- several checkpoints, other programs' checkpoints ---------------------------------------------------------------


def test_several_checkpoints_are_averaged(
    sgr_path: Path, checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = Evaluated(tmp_path, capsys, sgr_path), Evaluated(tmp_path, capsys, checkpoint_path)
    third = shutil.copy(sgr_path, tmp_path / "third.pth.tar")
    several = Evaluated(tmp_path, capsys, Path(f"{sgr_path}, {checkpoint_path}"), "--mode_path1", str(third))
    assert list(several.sims) == ["A", "B", "A1", "B1", "A2", "B2", "mean"] == list(several.record["results"])
    for name in ("A", "B"):
        assert np.array_equal(several.sims[name], one.sims[name])
        assert np.array_equal(several.sims[f"{name}1"], two.sims[name])
        assert np.array_equal(several.sims[f"{name}2"], one.sims[name])
        assert several.record["results"][f"{name}1"] == two.record["results"][name]
    mean = np.mean([several.sims[name] for name in list(several.sims)[:-1]], axis=0)
    np.testing.assert_allclose(several.sims["mean"], mean, rtol=0, atol=1e-6)
    assert several.record["num_networks"] == 6 and several.record["networks"] == [2, 2, 2]
    assert several.record["checkpoints"] == [str(sgr_path), str(checkpoint_path), str(third)]
    assert (
        several.record["similarities"] == ["SGR", "VSE", "SGR"] and "mean: of the scores of 6 networks" in several.text
    )


def test_networks_of_two_vocabularies_are_not_averaged(
    sgr_path: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have a file of their own where they say, of the same size."""
    words = Vocabulary.load(tiny_root / "vocab" / "tiny_precomp_vocab.json").words
    other = Vocabulary([*words[:4], *reversed(words[4:])])
    other.save(tmp_path / "tiny_precomp_vocab.json")
    content = torch.load(sgr_path, weights_only=True)
    content["config"]["data"]["vocab_path"], content["vocabulary_digest"] = str(tmp_path), other.digest()
    torch.save(content, tmp_path / "other.pth.tar")
    line = evaluation_error(capsys, "--mode_path", f"{sgr_path},{tmp_path / 'other.pth.tar'}")
    assert "other.pth.tar goes with another vocabulary" in line


def test_a_comma_in_a_files_name_does_not_separate(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "best, of all.pth.tar"
    odd.write_bytes(checkpoint_path.read_bytes())
    assert Evaluated(tmp_path, capsys, odd).record["checkpoints"] == [str(odd)]


def test_where_the_networks_come_from_is_told(
    sgr_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Evaluated(tmp_path, capsys, sgr_path)
    (line,) = [line for line in found.text.splitlines() if f": {sgr_path}:" in line]
    noise = found.record["noise"][0]
    assert line.startswith(f"A B: {sgr_path}: mgcs, SGR, {found.record['epoch_titles'][0]}, chosen on dev, seed 0; ")
    assert line.endswith(f"noise: protocol caption, 20 % asked, {100 * noise['measured_ratio']:.2f} % measured")
    assert noise["asked_ratio"] == 0.2 and 0.1 < noise["measured_ratio"] < 0.2
    assert found.record["methods"] == ["mgcs"] and found.record["chosen_on"] == ["dev"]


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older format"])
def test_an_exported_checkpoint_gives_the_same_scores_bit_by_bit(
    sgr_path: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: bool
) -> None:
    ours, exported = Evaluated(tmp_path, capsys, sgr_path), tmp_path / "legacy.pth.tar"
    checkpoint_tool.main(["export", str(sgr_path), "--output", str(exported)])
    if old:
        content = torch.load(exported, weights_only=False)
        torch.save(content, exported, _use_new_zipfile_serialization=False)
    theirs = Evaluated(tmp_path, capsys, exported)
    assert set(theirs.sims) == {"A", "B", "mean"}
    assert all(np.array_equal(theirs.sims[name], ours.sims[name]) for name in ours.sims)
    assert theirs.record["results"] == ours.record["results"] and theirs.record["seeds"] == [0]
    assert theirs.record["chosen_on"] == ["not recorded"] and "a split that is not recorded" in theirs.text
    assert theirs.record["noise"][0]["protocol"] == "not recorded" and theirs.record["methods"] == ["mgcs"]


def evaluation_error(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        evaluation.main([*flags, "--gpu", "cpu"])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1
    return line


def test_another_programs_checkpoint_needs_a_vocabulary_of_its_size(
    sgr_path: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "legacy.pth.tar"
    checkpoint_tool.main(["export", str(sgr_path), "--output", str(exported)])
    words = Vocabulary.load(tiny_root / "vocab" / "tiny_precomp_vocab.json").words
    Vocabulary([*words, "zebra"]).save(tmp_path / "tiny_precomp_vocab.json")
    line = evaluation_error(capsys, "--mode_path", str(exported), "--vocab_path", str(tmp_path))
    assert f"holds {len(words) + 1} words" in line and f"trained with {len(words)};" in line


# -- folds and --relevance ------------------------------------------------------------------------------------------


def test_folds_are_cut_from_the_full_matrix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"train": 40, "dev": 8, "test": 8, "testall": 24}
    folder = train(make_tiny_data(tmp_path, images=images), tmp_path / "out", "--num_epochs", "1")
    monkeypatch.setitem(catalog.PROTOCOLS, "tiny_precomp", catalog.Protocol(fold_images=8))
    scoring = Mock(wraps=ensemble.similarities)
    monkeypatch.setattr(ensemble, "similarities", scoring)
    found = Evaluated(tmp_path, capsys, folder / "checkpoint_dev_best.pth.tar", "--split", "testall")
    owners = np.arange(120) // 5
    for name in ("A", "B", "mean"):
        assert found.record["results"][name] == retrieval(found.sims[name], owners).as_dict()
        assert found.record["fold_results"][name] == mean_retrieval(folds_of(found.sims[name], owners, 8)).as_dict()
    assert found.record["fold_images"] == 8 and "8-image  " in found.text
    assert scoring.call_count == 2, "each network scores once"
    monkeypatch.setitem(catalog.PROTOCOLS, "tiny_precomp", catalog.Protocol(fold_images=24))
    found = Evaluated(tmp_path, capsys, folder / "checkpoint_dev_best.pth.tar", "--split", "testall")
    assert "fold_results" not in found.record and "-image folds" not in found.text, "one fold is the whole"


def test_relevance_from_a_file(
    sgr_path: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any pairs may be the truth; the usual recalls stay as they are."""
    random = np.random.RandomState(0)
    image, caption = np.nonzero(random.rand(IMAGES, CAPTIONS) < 0.3)
    file = tmp_path / "pairs.csv"
    rows = "\n".join(f"{i},{c}" for i, c in zip(image, caption, strict=True))
    file.write_text(f"image,caption\n{rows}\n", encoding="utf-8")
    found = Evaluated(tmp_path, capsys, sgr_path, "--relevance", str(file))
    truth = {"i2t": np.stack([image, caption], 1), "t2i": np.stack([caption, image], 1)}
    assert found.record["relevance"]["file"] == str(file)
    for name in ("A", "B", "mean"):
        assert found.record["relevance"]["results"][name] == relevance_result(found.sims[name], truth)
    assert "mAP@R" in found.text and "R-Prec" in found.text
    assert found.record["results"] == Evaluated(tmp_path, capsys, sgr_path).record["results"]


def test_relevance_names_images_by_id(sgr_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_tiny_data(tmp_path / "own")
    ids = [str(100 + number // 5) for number in range(CAPTIONS)]
    (root / "data" / "tiny_precomp" / "test_ids.txt").write_text("\n".join(ids), encoding="utf-8")
    rows = "\n".join(f"{id}\t{number}" for number, id in enumerate(ids))
    (tmp_path / "pairs.tsv").write_text(f"image_id\tcaption\n{rows}", encoding="utf-8")
    flags = ["--data_path", str(root / "data"), "--relevance", str(tmp_path / "pairs.tsv")]
    found = Evaluated(tmp_path, capsys, sgr_path, *flags)
    for name, usual in found.record["results"].items():
        own = found.record["relevance"]["results"][name]
        for way in ("i2t", "t2i"):
            assert {k: own[way][k] for k in ("R@1", "R@5", "R@10")} == {
                k: usual[way][k] for k in ("R@1", "R@5", "R@10")
            }


def test_a_bad_relevance_file_stops_before_scoring(
    sgr_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "similarities", lambda *_: pytest.fail("scored before looking at the file"))
    (tmp_path / "pairs.csv").write_text("0,1\n0,40\n", encoding="utf-8")
    line = evaluation_error(capsys, "--mode_path", str(sgr_path), "--relevance", str(tmp_path / "pairs.csv"))
    assert "line 2: caption '40' is not one of 0 .. 39" in line
    line = evaluation_error(capsys, "--mode_path", str(sgr_path), "--relevance", str(tmp_path / "none.csv"))
    assert "none.csv cannot be read" in line


def test_a_comma_alone_names_no_checkpoint() -> None:
    with pytest.raises(InputError, match="--mode_path ' , ' names no checkpoint"):
        evaluation.EvaluationConfig(mode_path=" , ")
