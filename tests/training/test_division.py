"""The division, its metrics and the bank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from methods import Method
from methods.blocks.method import Bank, Scored
from runtime.errors import InputError
from runtime.seed import generator
from tests.training.trainers import make_trainer
from training.division import Division, decide, division_metrics
from training.evidence import collect_bank, gather_evidence

CPU = torch.device("cpu")
SIGNAL = np.array([0.1, 0.2, 0.3, 0.8, 0.9, 0.4])
PROBABILITY = np.array([0.9, 0.8, 0.7, 0.1, 0.2, 0.6])
IS_CLEAN = np.array([True, True, True, False, False, False])
IS_MATCHED = np.array([True, True, False, False, True, False])


def test_metrics_by_hand() -> None:
    division = Division(SIGNAL, PROBABILITY, IS_CLEAN, {"similarity": -PROBABILITY}, modality_gap=0.25)
    metrics = division_metrics(division, IS_MATCHED)
    # clean side {0, 1, 2}: 0 and 1 are matched; matched {0, 1, 4}
    assert metrics == pytest.approx(
        {
            "share_clean": 3 / 6,
            "modality_gap": 0.25,
            "precision": 2 / 3,
            "recall": 2 / 3,
            "residual_noise": 1 / 3,
            # of 3 x 3 (matched, mismatched) couples: 0.9 and 0.8 beat all three, 0.2 beats 0.1 alone
            "auc": 7 / 9,
            # 0.1 and 0.2 lie below all three, 0.9 below none
            "auc_signal": 6 / 9,
            "auc_similarity": 2 / 9,
        }
    )


def test_metrics_without_the_truth() -> None:
    metrics = division_metrics(Division(SIGNAL, PROBABILITY, IS_CLEAN, {"similarity": SIGNAL}), None)
    assert metrics == {"share_clean": 0.5, "modality_gap": 0.0}


def test_metrics_at_the_edges() -> None:
    nothing = division_metrics(Division(SIGNAL, PROBABILITY, np.zeros(6, bool)), IS_MATCHED)
    assert nothing["precision"] is None and nothing["residual_noise"] is None and nothing["recall"] == 0
    matched = division_metrics(Division(SIGNAL, PROBABILITY, IS_CLEAN), np.ones(6, bool))
    assert matched["auc"] is None and matched["precision"] == 1 and matched["recall"] == 0.5
    mismatched = division_metrics(Division(SIGNAL, PROBABILITY, IS_CLEAN), np.zeros(6, bool))
    assert mismatched["recall"] is None and mismatched["precision"] == 0 and mismatched["residual_noise"] == 1


def test_the_bank_by_hand(tiny_root: Path, tmp_path: Path) -> None:
    """Three images, six captions; image 2 was given no caption."""
    trainer = make_trainer(tiny_root, tmp_path, "--dropout", "0")
    split, matcher = trainer.data.train, trainer.networks[0].matcher.eval()
    index = split.image_of_caption.copy()
    index[:6] = [0, 0, 1, 1, 0, 1]
    split.set_images(index)
    split.num_images, split.lengths, split.image_of_pair = 3, split.lengths[:6], index[:6]
    with torch.no_grad():
        all_pairs = matcher.embed(split[torch.arange(6)])
    f, g = all_pairs.image_global, all_pairs.caption_global
    bank = collect_bank(matcher, split, 2, CPU)
    assert bank.image_id.tolist() == [0, 1]
    torch.testing.assert_close(bank.image_global, torch.stack([f[0], f[2]]))
    drift = torch.stack([f[0] - (g[0] + g[1] + g[4]) / 3, f[2] - (g[2] + g[3] + g[5]) / 3])
    torch.testing.assert_close(bank.drift, drift)


class Recording(Method):
    """Signals and diagnostics that name the pair."""

    def __init__(self, config: object) -> None:
        super().__init__(config)  # type: ignore[arg-type]
        self.batches: list[list[int]] = []
        self.bank: Bank | None = None

    @property
    def needs_bank(self) -> bool:
        return True

    def remember(self, bank: Bank) -> None:
        self.bank = bank

    def pair_signal(self, scored: Scored) -> torch.Tensor:
        self.batches.append(scored.batch.index.tolist())
        return scored.batch.index.double() / 100 + (scored.batch.index >= 100)

    def diagnostics(self, scored: Scored) -> dict[str, torch.Tensor]:
        return {"twice": 2.0 * scored.batch.index}


def test_every_pair_gets_its_own_signal(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--method", "ncr")
    method = Recording(trainer.config.method)
    matcher = trainer.networks[0].matcher.train()
    counted: list[int] = []

    def divide() -> Division:
        look = gather_evidence(
            matcher, method, trainer.data.train, batch_size=33, generator=generator(0, "d"), device=CPU,
            advance=counted.append,
        )  # fmt: skip
        return decide(method, look, [look], trainer.data.train)

    first = divide()
    number = np.arange(200)
    np.testing.assert_allclose(first.signal, number / 100 + (number >= 100))
    np.testing.assert_array_equal(first.diagnostics["twice"], 2 * number)
    assert first.is_clean.tolist() == (first.probability > 0.5).tolist()
    assert first.is_clean[:90].all() and not first.is_clean[110:].any()
    assert sum(counted) == 200 and first.modality_gap > 0
    assert matcher.training, "train mode is restored"
    assert method.bank is not None and len(method.bank.image_id) <= 40
    batches = list(method.batches)
    divide()
    assert method.batches[len(batches) :] == batches, "the batches are one fixed permutation"
    assert sorted(sum(batches, [])) == list(range(200)) and sum(batches, []) != list(range(200))


def test_the_signal_of_a_real_method(tiny_root: Path, tmp_path: Path) -> None:
    """The mean hinge among the pairs of the batch, in eval mode."""
    trainer = make_trainer(tiny_root, tmp_path, "--method", "ncr", "--dropout", "0.4")
    matcher, method = trainer.networks[0].matcher, trainer.networks[0].method
    split = trainer.data.train
    look = gather_evidence(matcher, method, split, batch_size=200, generator=generator(0, "d"), device=CPU)
    division = decide(method, look, [look], split)
    matcher.eval()
    batch = trainer.data.train[torch.arange(200)]
    with torch.no_grad():
        expected = method.per_pair_loss(matcher.score(matcher.embed(batch)), batch)
    np.testing.assert_allclose(division.signal, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_a_diverged_network_is_told(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--method", "ncr")
    for parameter in trainer.networks[0].matcher.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    with pytest.raises(InputError, match="diverged"):
        trainer.divide(0)
