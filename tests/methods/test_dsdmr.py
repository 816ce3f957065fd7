"""DSDMR as a method of run.py: what it drops, when it filters again, which margins it trains with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.blocks.method import Scored
from methods.dsdmr import DSDMR, DSDMRConfig
from models.losses import hardest_negative, pair_costs
from runtime.errors import InputError
from tests.models.networks import make_batch, make_matcher
from tests.training.trainers import make_trainer

LENGTHS = (3, 2, 5, 3, 4, 2, 3, 6)


def modes_of(noisy: int, clean: int, seed: int = 0) -> np.ndarray:
    """Return similarities of `noisy` mismatched and then `clean` matched pairs, as far apart as in DSDMR's Figure 4."""
    random = np.random.RandomState(seed)
    return np.concatenate([0.169 + 0.041 * random.randn(noisy), 0.313 + 0.035 * random.randn(clean)])


def fitted(**flags: object) -> DSDMR:
    """Return a method that has filtered 400 noisy and 600 clean pairs."""
    method = DSDMR(DSDMRConfig(**flags))  # type: ignore[arg-type]
    method.clean_probability(-modes_of(400, 600))
    return method


def test_the_filter_drops_the_lower_mode() -> None:
    method = DSDMR(DSDMRConfig())
    probability = method.clean_probability(-modes_of(400, 600))
    kept = method.divide(probability)
    assert kept[:400].mean() < 0.06 and kept[400:].mean() > 0.94
    found = method.report()
    assert found.warning == ""
    assert found.figures["noisy_mean"] == pytest.approx(0.169, abs=0.01)
    assert found.figures["clean_mean"] == pytest.approx(0.313, abs=0.01)
    assert found.figures["mode_separation"] == pytest.approx(3.78, abs=0.3)


def test_clean_data_is_kept_whole_and_says_so() -> None:
    method = DSDMR(DSDMRConfig())
    assert method.divide(method.clean_probability(-modes_of(0, 1000))).all()
    assert "one mode" in method.report().warning
    margins = method.report().figures
    assert (margins["image_margin"], margins["text_margin"]) == (0.3, 0.2)


def test_a_dropped_pair_may_return() -> None:
    first, returned = modes_of(400, 600), modes_of(400, 600)
    returned[:200] = modes_of(0, 200, seed=1)  # the network has changed its mind about these
    method = DSDMR(DSDMRConfig())
    kept = method.divide(method.clean_probability(-first))
    again = method.divide(method.clean_probability(-returned))
    assert again[:200][~kept[:200]].mean() > 0.9 and again[400:].mean() > 0.9


def test_fixed_margins_are_the_plain_hinge() -> None:
    method = fitted(margin_policy="fixed", image_margin=0.2, text_margin=0.2)
    scores = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    batch = make_batch(LENGTHS)
    plain = hardest_negative(pair_costs(scores, 0.2, batch.image_id))
    assert torch.equal(method.per_pair_loss(scores, batch, torch.ones(8), 1.0), plain)
    assert torch.equal(method.per_pair_loss(scores, batch, None, 1.0), plain)


def test_each_direction_has_its_margin_and_modes_move_it() -> None:
    scores, batch = torch.full((8, 8), 0.5), make_batch(LENGTHS)
    method = fitted(image_margin=0.3, text_margin=0.2, margin_kappa=10.0, margin_max=5.0, mask_same_image=False)
    overlap = method.report().figures["mode_overlap"]
    assert 0 < overlap < 0.2
    expected = 0.3 * (1 + 10 * overlap) + 0.2 * (1 + 10 * overlap)
    found = method.per_pair_loss(scores, batch, torch.ones(8), 1.0)
    assert found.tolist() == pytest.approx([expected] * 8, rel=1e-5)
    assert method.per_pair_loss(scores, batch, None, 1.0).tolist() == pytest.approx([0.5] * 8), "warm-up: base margins"


def test_labels_are_probabilities_with_the_posterior_policy_alone() -> None:
    chance = torch.linspace(0, 1, 8)
    for policy, labels in (("posterior", chance), ("separation", torch.ones(8)), ("fixed", torch.ones(8))):
        views = None
        assert torch.equal(fitted(margin_policy=policy).refine(views, None, chance).clean, labels)  # type: ignore[arg-type]


def test_only_the_given_pairs_are_scored() -> None:
    matcher, batch = make_matcher("SGR").eval(), make_batch(LENGTHS)
    method = DSDMR(DSDMRConfig())
    scored = Scored(matcher, method, batch)
    signal = method.pair_signal(scored)
    assert "sims" not in vars(scored), "the others were not"
    torch.testing.assert_close(-signal, scored.sims.diagonal())
    torch.testing.assert_close(method.diagnostics(scored)["similarity"], -signal)


def test_state_round_trip() -> None:
    method, other = fitted(), DSDMR(DSDMRConfig())
    other.restore(method.state())
    assert other.report() == method.report()
    again = -modes_of(400, 600, seed=2)
    assert np.array_equal(other.clean_probability(again), method.clean_probability(again))
    fresh = DSDMR(DSDMRConfig())
    fresh.restore(DSDMR(DSDMRConfig()).state())
    assert fresh.report().figures == {}


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        ({"margin": 0.3}, "--image_margin"),
        ({"soft_margin": "linear"}, "--margin_policy"),
        ({"fit_type": "bmm"}, "two Gaussians"),
        ({"refit_every": 0}, "at least 1"),
        ({"mode_prior": "1.5"}, "between 0 and 1"),
        ({"min_separation": -1.0}, "at least 0"),
        ({"margin_max": 0.01}, "at least 0.05"),
    ],
)
def test_flags_that_cannot_be(flags: dict[str, object], advice: str) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(flags))}.*{advice}"):
        DSDMRConfig(**flags)  # type: ignore[arg-type]


def test_the_trainer_filters_every_so_many_epochs_and_trains_no_noisy_side(tiny_root: Path, tmp_path: Path) -> None:
    flags = ("--method", "dsdmr", "--num_epochs", "4", "--refit_every", "3", "--noisy_start", "0")
    trainer = make_trainer(tiny_root, tmp_path, *flags, "--min_separation", "0", "--warmup_epoch", "3")
    trainer.train()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    divided = [record for record in records if record["event"] == "division"]
    assert [record["step"] for record in divided] == [3, 6]
    for record in divided:
        assert {"division/A/mode_separation", "division/A/clean_mean", "division/A/image_margin"} <= set(record)


def test_a_warning_of_the_filter_is_said(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tiny_root, tmp_path, "--method", "dsdmr", "--num_epochs", "1", "--min_separation", "100").train()
    said = capsys.readouterr().out
    assert "  warning: " in said and "one mode" in said and "share clean 1.000" in said


def test_the_filters_flags_reach_the_fit() -> None:
    assert "less than 1" in fitted(min_separation=100.0).report().warning
    with pytest.raises(InputError, match="--mode_starts 0"):
        fitted(mode_starts=0)


def test_without_the_filter_modes_set_the_margins_only() -> None:
    method = DSDMR(DSDMRConfig(no_filter=True))
    assert method.divide(method.clean_probability(-modes_of(400, 600))).all()
    assert method.report().figures["image_margin"] > 0.3
