"""Signal, refinement and loss are chosen freely with every method; poor data give defined divisions and a warning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from methods import known_methods
from models.losses import LOSSES
from runtime.errors import InputError
from tests.test_run import chance
from tests.training.trainers import make_trainer, warmed_up

DIVIDING = [name for name, kind in known_methods().items() if kind.divides]
CONSENSUS = ("--method", "consensus")


def trained(root: Path, folder: Path, *flags: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run to the end; return the results and the records."""
    results = make_trainer(root, folder, *flags).train()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    values = [v for r in records for v in r.values() if isinstance(v, float)]
    assert np.isfinite(values).all()
    return results, records


@pytest.mark.parametrize("refine", ["labels", "posterior", "rematch"])
@pytest.mark.parametrize("signal", ["pair", "consensus"])
@pytest.mark.parametrize("method", DIVIDING)
def test_signals_and_refinements_combine_with_every_method(
    method: str, signal: str, refine: str, tiny_root: Path, tmp_path: Path
) -> None:
    flags = ("--method", method, "--signal", signal, "--refine", refine, "--loss", "bounded", "--noise_ratio", "0.4")
    _, records = trained(tiny_root, tmp_path, *flags)
    division = [r for r in records if r["event"] == "division" and r["network"] == "A"][-1]
    assert ("division/A/weight_pair" in division) == (signal == "consensus")
    assert ("division/A/offers" in division) == (refine == "rematch")
    if signal == "consensus":
        names = ("pair", "captions_near", "images_near", "images_read", "captions_read")
        assert sum(division[f"division/A/weight_{name}"] for name in names) == pytest.approx(1.0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("module", ["SGR", "SCAN_t2i", "VSE"])
def test_losses_train_similarities(loss: str, module: str, tiny_root: Path, tmp_path: Path) -> None:
    flags = ("--loss", loss, "--module_name", module, "--negatives", "anneal", "--anneal_epochs", "1")
    results, _ = trained(tiny_root, tmp_path, *CONSENSUS, *flags)
    assert results["test"]["mean"]["rSum"] > chance() + 40


def test_both_networks_of_consensus_divide_alike_and_hear_both(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, *CONSENSUS, "--noise_ratio", "0.4", "--signal_memory", "0.25")
    first = warmed_up(trainer, 1).divide(0)
    assert np.array_equal(first["A"].signal, first["B"].signal)
    again = trainer.divide(1)
    np.testing.assert_allclose(again["A"].signal, first["A"].signal, err_msg="the same networks, remembered or not")
    later = warmed_up(trainer, 2).divide(2)
    trainer.state.divisions = {}
    forgotten = trainer.divide(2)
    assert np.abs(forgotten["A"].signal - first["A"].signal).mean() > 0.1, "the networks have learnt"
    np.testing.assert_allclose(later["A"].signal, 0.75 * forgotten["A"].signal + 0.25 * first["A"].signal)


def test_offers_are_mostly_right(tiny_root: Path, tmp_path: Path) -> None:
    trainer = warmed_up(make_trainer(tiny_root, tmp_path, *CONSENSUS, "--noise_ratio", "0.4"), 6)
    division = trainer.divide(0)["A"]
    assert division.offers is not None and len(division.offers) > 5
    right = trainer.data.train.image_of_caption[division.offers.caption] % 8 == division.offers.image % 8
    assert right.mean() > 0.5, "eight themes: chance is 1 in 8"
    lost = np.setdiff1d(division.offers.caption, np.flatnonzero(division.is_clean))
    assert len(lost), "some of them are for captions that are not trusted where they were given"


def test_equal_captions_are_divided_with_a_warning(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every signal that hangs on the captions alone says nothing; equal images are refused before."""
    root = tmp_path / "data root"
    shutil.copytree(tiny_root, root)
    for split in ("train", "dev", "test"):
        path = root / "data" / "tiny_precomp" / f"{split}_caps.txt"
        path.write_text("a red dog\n" * len(path.read_text(encoding="utf-8").splitlines()), encoding="utf-8")
    output = tmp_path / "out"
    output.mkdir()
    _, records = trained(root, output, *CONSENSUS, "--noise_ratio", "0.4")
    divisions = [r for r in records if r["event"] == "division"]
    assert len(divisions) == 4
    assert "warning: " in capsys.readouterr().out


def test_more_neighbours_than_images_are_told(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tiny_root, tmp_path, *CONSENSUS, "--neighbours", "500", "--noise_ratio", "0.2")
    assert (
        "warning: --neighbours 500: an image or a caption has only 39 that are not its own" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method baseline --signal consensus", "--signal consensus has no effect with --method baseline"),
        ("--method baseline --refine rematch", "--refine rematch has no effect with --method baseline"),
        ("--method dsdmr --loss bounded --image_margin 0.1", "--image_margin has no effect with --loss"),
        ("--neighbours 0", "--neighbours 0 is out of range"),
        ("--neighbour_votes 0", "--neighbour_votes 0 is out of range"),
        ("--signal_memory 1", "--signal_memory 1.0 is out of range"),
    ],
)
def test_choices_that_make_no_sense(flags: str, message: str, tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        make_trainer(tiny_root, tmp_path, *flags.split())


def test_without_noise_only_matched_pairs_are_trained_on(tiny_root: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("noisy", "removed")]
    for folder in folders:
        folder.mkdir()
    noisy = make_trainer(tiny_root, folders[0], "--noise_ratio", "0.4")
    trainer = make_trainer(tiny_root, folders[1], "--noise_ratio", "0.4", "--remove_noise")
    expected = np.flatnonzero(noisy.data.train.is_matched)
    assert trainer.data.train.is_matched.all() and len(trainer.data.train) == len(expected) < 200
    assert np.array_equal(trainer.data.train.image_of_pair, expected // 5)
    assert np.array_equal(trainer.data.train.lengths, noisy.data.train.lengths[expected])
    trainer.warm_up(0)
    assert all(division.is_clean.mean() > 0.5 for division in trainer.divide(0).values())
