"""The division: what a network sees of the pairs, how good it was, what is recorded of it and trained on after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from methods import Method
from methods.blocks.method import Bank, DivisionReport, Scored
from methods.blocks.mixture import fit
from methods.blocks.rematch import Offers
from models.ensemble import similarities
from runtime.errors import InputError
from runtime.log import RunLog
from runtime.seed import generator
from tests.training.trainers import make_trainer, warmed_up
from training.division import Division, collect_bank, collect_pairs, decide, epoch_pairs, gather_evidence
from training.reports import as_arrays, division_metrics, record_division

CPU = torch.device("cpu")
SIGNAL = np.array([0.1, 0.2, 0.3, 0.8, 0.9, 0.4])
PROBABILITY = np.array([0.9, 0.8, 0.7, 0.1, 0.2, 0.6])
IS_CLEAN = np.array([True, True, True, False, False, False])
IS_MATCHED = np.array([True, True, False, False, True, False])
SIX = Division(SIGNAL, PROBABILITY, IS_CLEAN, {"similarity": -PROBABILITY}, modality_gap=0.25)

# -- how good it was ------------------------------------------------------------------------------------------------


def test_metrics_by_hand() -> None:
    assert division_metrics(SIX, IS_MATCHED) == pytest.approx(
        {
            "share_clean": 3 / 6,
            "modality_gap": 0.25,
            # clean side {0, 1, 2}: 0 and 1 are matched; matched {0, 1, 4}
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
    assert division_metrics(SIX, None) == {"share_clean": 0.5, "modality_gap": 0.25}, "the truth is not known"


def test_metrics_at_the_edges() -> None:
    nothing = division_metrics(Division(SIGNAL, PROBABILITY, np.zeros(6, bool)), IS_MATCHED)
    assert nothing["precision"] is None and nothing["residual_noise"] is None and nothing["recall"] == 0
    matched = division_metrics(SIX, np.ones(6, bool))
    assert matched["auc"] is None and matched["precision"] == 1 and matched["recall"] == 0.5
    mismatched = division_metrics(SIX, np.zeros(6, bool))
    assert mismatched["recall"] is None and mismatched["precision"] == 0 and mismatched["residual_noise"] == 1


# -- what a network sees --------------------------------------------------------------------------------------------


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

    def pair_signal(self, scored: Scored) -> Tensor:
        self.batches.append(scored.batch.index.tolist())
        return scored.batch.index.double() / 100 + (scored.batch.index >= 100)

    def diagnostics(self, scored: Scored) -> dict[str, Tensor]:
        return {"twice": 2.0 * scored.batch.index}


def test_every_pair_gets_its_own_signal(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--method", "ncr")
    method, split = Recording(trainer.config.method), trainer.data.train
    matcher = trainer.networks[0].matcher.train()
    counted: list[int] = []

    def divide() -> Division:
        how: dict[str, Any] = {"batch_size": 33, "generator": generator(0, "d"), "device": CPU}
        seen = gather_evidence(matcher, method, split, advance=counted.append, **how)
        return decide(method, seen, [seen], split)

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
    """The mean hinge among the pairs of the batch, in eval mode; a network that has diverged is told."""
    trainer = make_trainer(tiny_root, tmp_path, "--method", "ncr", "--dropout", "0.4", "--batch_size", "200")
    matcher, method = trainer.networks[0].matcher.train(), trainer.networks[0].method
    signal = trainer.divide(0)["A"].signal
    batch = trainer.data.train[torch.arange(200)]
    with torch.no_grad():
        expected = method.per_pair_loss(matcher.eval().score(matcher.embed(batch)), batch)
    np.testing.assert_allclose(signal, expected.numpy(), rtol=1e-4, atol=1e-6)
    for parameter in matcher.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    with pytest.raises(InputError, match="diverged"):
        trainer.divide(0)


@pytest.mark.parametrize("module", ["VSE", "GPO", "SGR", "SAF", "SCAN_t2i"])
def test_vectors_for_neighbours_give_the_networks_scores(module: str, tiny_root: Path, tmp_path: Path) -> None:
    """Those of pooled vectors exactly, others as an estimate."""
    trainer = make_trainer(tiny_root, tmp_path, "--module_name", module, "--noise_ratio", "0.4")
    matcher, split = trainer.networks[0].matcher, trainer.data.train
    if module not in ("VSE", "GPO"):
        warmed_up(trainer, 3)
    bank = collect_pairs(matcher, split, CPU)[0]
    scores = (bank.images * bank.slope) @ bank.captions.t() + bank.image_part[:, None] + bank.caption_part
    expected = similarities(matcher, split, CPU)
    if module in ("VSE", "GPO"):
        np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)
    assert np.corrcoef(scores.numpy().ravel(), expected.ravel())[0, 1] > 0.7
    assert np.array_equal(bank.image_of_pair.numpy(), split.image_of_pair)


def test_equal_pictures_have_one_number(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path)
    matcher, split = trainer.networks[0].matcher.train(), trainer.data.train
    read = split.read_images
    split.read_images = lambda images: read(np.where(images == 7, 3, images))  # type: ignore[method-assign]
    bank, features = collect_pairs(matcher, split, CPU)
    assert matcher.training, "train mode is restored"
    picture = bank.picture
    assert picture[7] == picture[3] and len(picture.unique()) == split.num_images - 1
    torch.testing.assert_close(features[5], read(np.array([5]))[0].mean(dim=0))


# -- what an epoch trains on after it -------------------------------------------------------------------------------


def divided(offers: Offers | None) -> Division:
    probability = np.linspace(0, 1, 200)
    return Division(-probability, probability, probability > 0.5, offers=offers)


def test_offered_pairs_stand_behind_the_given_ones(tiny_root: Path, tmp_path: Path) -> None:
    split = make_trainer(tiny_root, tmp_path, "--noise_ratio", "0").data.train
    everything = epoch_pairs(split, None)
    assert everything.split is split and len(everything.clean) == 200 and not len(everything.noisy)
    assert (everything.probability == 1).all(), "without a division"
    division = divided(Offers(np.array([3, 3, 150]), np.array([7, 8, 0]), np.array([0.6, 0.7, 0.8])))
    pairs = epoch_pairs(split, division)
    assert np.array_equal(pairs.noisy, np.flatnonzero(~division.is_clean))
    assert pairs.clean[-3:].tolist() == [200, 201, 202] and len(pairs.clean) == division.is_clean.sum() + 3
    torch.testing.assert_close(pairs.probability[-3:], torch.tensor([0.6, 0.7, 0.8]))
    batch = pairs.split[torch.tensor([3, 200, 202])]
    assert batch.index.tolist() == [3, 200, 202] and batch.image_id.tolist() == [0, 7, 0]
    assert batch.lengths.tolist() == [split.lengths[3], split.lengths[3], split.lengths[150]]
    torch.testing.assert_close(batch.tokens[0], batch.tokens[1])
    alone = split[torch.tensor([150])]
    torch.testing.assert_close(batch.tokens[2][: alone.tokens.shape[1]], alone.tokens[0])
    torch.testing.assert_close(batch.regions[1], split.read_images(np.array([7]))[0])
    assert len(split) == 200 and np.array_equal(split.image_of_pair, np.arange(200) // 5), "the given pairs stay"
    none = Offers(*(np.empty(0, dtype=np.int64) for _ in range(2)), np.empty(0))
    assert all(epoch_pairs(split, divided(offers)).split is split for offers in (None, none))


@pytest.mark.parametrize("offers", [None, Offers(np.array([3]), np.array([7]), np.array([0.6]))])
def test_a_division_comes_back_from_its_state(offers: Offers | None) -> None:
    division = divided(offers)
    back = Division.from_state(division.as_state())
    assert np.array_equal(back.signal, division.signal) and np.array_equal(back.is_clean, division.is_clean)
    assert np.array_equal(back.probability, division.probability)
    assert (back.offers and back.offers.image.tolist()) == (offers and [7])


# -- what is recorded of it -----------------------------------------------------------------------------------------


class Recorded(RunLog):
    """Keeps samples."""

    def samples(self, *values: Any) -> None:
        self.kept = values


def test_what_a_division_leaves(tiny_root: Path, tmp_path: Path) -> None:
    """A file, written again by a resumed run, and captions with their probability."""
    (tmp_path / "run").mkdir()
    trainer = make_trainer(tiny_root, tmp_path / "run")
    signal = np.random.RandomState(0).rand(200)
    fitted = fit(signal, "gmm")
    division = Division(signal, 1 - signal, signal < 0.5, {"similarity": -signal}, report=DivisionReport(fitted=fitted))
    assert set(as_arrays(SIX, None)) == {"signal", "probability", "is_clean", "diagnostic_similarity"}
    log = Recorded(tmp_path)
    for _ in range(2):
        record_division(log, 7, "B", division, trainer.data)
    (path,) = (tmp_path / "divisions").iterdir()
    assert path.name == "epoch_007_B.npz"
    found = np.load(path)
    np.testing.assert_array_equal(found["signal"], signal.astype(np.float32))
    np.testing.assert_array_equal(found["is_matched"], trainer.data.train.is_matched)
    np.testing.assert_allclose(found["diagnostic_similarity"], -signal, atol=1e-3)
    assert str(found["fit_type"]) == "gmm" and found["fitted_means"].shape == (2,)
    name, columns, rows, step = log.kept
    assert (name, step, columns[0]) == ("captions/B", 7, "pair") and len(rows) == 24
    captions = (tiny_root / "data" / "tiny_precomp" / "train_caps.txt").read_text(encoding="utf-8").splitlines()
    for pair, caption, probability, truth in rows:
        assert caption == captions[int(pair)] and float(probability) == round(1 - signal[int(pair)], 3)
        assert truth == ("matched" if trainer.data.train.is_matched[int(pair)] else "mismatched")
    log.close()
