"""The loop: losses and steps, schedules, exchanges between the networks, and what is tested in the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_utils.loaders import Batch
from methods.blocks.method import SoftLabels
from models.encoders import set_generator
from models.ranks import Ranks, Retrieval
from runtime.checkpoint import load_checkpoint
from tests.models.networks import dense_scores
from tests.training.trainers import make_trainer
from training import network as network_module
from training import trainer as trainer_module
from training.checkpointing import BEST
from training.config import LR_RULES, TrainingConfig, parse_args
from training.division import Division
from training.network import LabelledBatch, Network, part_loss, soft_labels, train_step, warm_up_losses, warm_up_step
from training.schedule import hardness, stages
from training.trainer import Trainer

Weights = list[dict[str, Tensor]]


def weights_of(trainer: Trainer) -> Weights:
    return [{k: v.clone() for k, v in n.matcher.state_dict().items()} for n in trainer.networks]


def are_equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a)


def division_of(probability: np.ndarray) -> Division:
    return Division(1 - probability, probability, probability > 0.5)


# -- the loss -------------------------------------------------------------------------------------------------------


def dense_loss(network: Network, part: LabelledBatch, hardness: float) -> Tensor:
    """Every pair scored with gradient: what `part_loss` must equal."""
    embeddings = network.matcher.embed(part.batch)
    scores = network.method.scores(dense_scores(network.matcher, embeddings), embeddings, part.batch)
    return network.method.loss(scores, part.batch, part.labels, kept=part.kept, hardness=hardness)


def loss_and_gradients(
    compute: Callable[[Network, LabelledBatch, float], Tensor], network: Network, part: LabelledBatch, hardness: float
) -> tuple[Tensor, list[Tensor]]:
    set_generator(network.matcher, torch.Generator().manual_seed(11))  # the same dropout
    loss = compute(network, part, hardness)
    parameters = list(network.matcher.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss.detach(), [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]


@pytest.mark.parametrize(("hardness", "kept"), [(1.0, True), (1.0, False), (0.5, True), (0.0, False)])
@pytest.mark.parametrize("mask", ["--mask_same_image", "--no-mask_same_image"])
@pytest.mark.parametrize(
    ("module", "method", "low"),
    [
        ("SGR", "ncr", False),
        ("SGR", "mgcs", True),
        ("VSE", "mgcs", False),
        ("SAF", "mgcs", True),
    ],
)
def test_the_loss_is_that_of_a_dense_graph(
    tiny_root: Path, tmp_path: Path, module: str, method: str, low: bool, mask: str, hardness: float, kept: bool
) -> None:
    """In value and every gradient, under dropout, also where all pairs are looked at in bfloat16 first."""
    trainer = make_trainer(tiny_root, tmp_path, "--module_name", module, "--method", method, "--dropout", "0.4", mask)
    network = trainer.networks[0]
    network.matcher.train()
    network.matcher.similarity.scoring_dtype = torch.bfloat16 if low else None
    batch = trainer.data.train[torch.arange(0, 48, 2)]
    chosen = torch.arange(24) % 3 != 0 if kept else None
    part = LabelledBatch(batch, torch.linspace(0, 1, 24), chosen)
    loss, gradients = loss_and_gradients(part_loss, network, part, hardness)
    dense, dense_gradients = loss_and_gradients(dense_loss, network, part, hardness)
    assert dense > 0
    torch.testing.assert_close(loss, dense, rtol=1e-4, atol=1e-5)
    assert max(float(g.abs().max()) for g in dense_gradients) > 1e-3
    for own, expected in zip(gradients, dense_gradients, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)


def test_a_loss_of_zero_has_no_gradient(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--module_name", "SGR", "--method", "ncr")
    network = trainer.networks[0]
    batch = trainer.data.train[torch.arange(0, 100, 5)]
    loss = part_loss(network, LabelledBatch(batch, torch.ones(20), torch.zeros(20, dtype=torch.bool)), 1.0)
    assert float(loss.detach()) == 0.0
    before = weights_of(trainer)
    network.step(loss, 2.0)
    parameters = dict(network.matcher.named_parameters())
    assert all(torch.equal(before[0][key], value) for key, value in parameters.items())
    assert network.step(torch.zeros(()), 2.0) == 0.0, "of no pair at all"


def test_the_gradient_is_clipped(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--grad_clip", "0.5")
    network = trainer.networks[0]
    batch = trainer.data.train[torch.arange(0, 100, 5)]
    network.step(1e4 * part_loss(network, LabelledBatch(batch, torch.ones(20)), 1.0), trainer.settings.grad_clip)
    norms = [p.grad.norm() for p in network.matcher.parameters() if p.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(0.5, rel=1e-3)


def test_the_loss_of_a_step_is_per_pair(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--dropout", "0")
    network = trainer.networks[0]
    network.matcher.train()
    parts = [
        LabelledBatch(trainer.data.train[torch.arange(0, 100, 5)], torch.ones(20)),
        LabelledBatch(trainer.data.train[torch.arange(1, 50, 5)], torch.linspace(0, 1, 10), torch.arange(10) > 2),
    ]
    with torch.no_grad():
        expected = sum(float(part_loss(network, part, 1.0)) for part in parts) / 30
    assert train_step(network, parts, 1.0, grad_clip=2.0) == pytest.approx(expected, rel=1e-5)


# -- warm-up --------------------------------------------------------------------------------------------------------

LOSSES = {"A": [5.0, 1, 4, 2, 3, 9, 8, 7, 6, 10], "B": [1.0, 9, 2, 8, 3, 7, 4, 6, 5, 10]}


@pytest.mark.parametrize(
    ("kind", "rate", "expected"),
    [
        ("warmup_sele", "0.39", {"A": [1, 3, 4]}),
        ("warmup_sele", "0.01", {"A": [1]}),
        ("warmup_sele", "1.0", {"A": list(range(10))}),
        ("warmup", "0.3", {"A": list(range(10))}),
        ("co_teaching", "0.3", {"A": [0, 2, 4], "B": [1, 3, 4]}),
    ],
)
def test_which_pairs_a_warm_up_step_takes(
    tiny_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    rate: str,
    expected: dict[str, list[int]],
) -> None:
    """int(rate * B) pairs of small loss; under co-teaching those that the peer finds easy."""
    trainer = make_trainer(tiny_root, tmp_path, "--warmup_type", kind, "--warmup_rate", rate)
    leaves = {name: torch.tensor(values, requires_grad=True) for name, values in LOSSES.items()}
    stepped: dict[str, list[int]] = {}

    def step(network: Network, loss: Tensor, grad_clip: float) -> float:
        (gradient,) = torch.autograd.grad(loss, leaves[network.name])
        stepped[network.name] = torch.nonzero(gradient).flatten().tolist()
        return float(loss.detach())

    monkeypatch.setattr(network_module, "warm_up_losses", lambda network, batch: leaves[network.name] * 1)
    monkeypatch.setattr(Network, "step", step)
    batch = trainer.data.train[torch.arange(10)]
    loss = warm_up_step(trainer.networks[: len(expected)], batch, trainer.settings)
    assert stepped == expected
    sums = [sum(LOSSES[name][k] for k in picked) for name, picked in expected.items()]
    assert loss == pytest.approx(sum(sums) / len(sums) / 10), "recorded per pair"


@pytest.mark.parametrize(("kind", "walks"), [("warmup", ["A", "B"]), ("co_teaching", ["AB"])])
def test_a_warm_up_epoch_sees_every_pair(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, walks: list[str]
) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--warmup_type", kind)
    seen: dict[str, list[int]] = {}

    def record(networks: list[Network], batch: Batch, settings: TrainingConfig) -> float:
        seen.setdefault("".join(n.name for n in networks), []).extend(batch.index.tolist())
        return 0.0

    monkeypatch.setattr(trainer_module, "warm_up_step", record)
    trainer.warm_up(0)
    assert list(seen) == walks
    assert all(sorted(numbers) == list(range(200)) for numbers in seen.values())
    assert len({str(numbers) for numbers in seen.values()}) == len(walks), "each network has its own order"


def test_warm_up_takes_the_mean_hinge_of_uncorrected_scores(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--dropout", "0", "--method", "mgcs", "--module_name", "SGR")
    network, batch = trainer.networks[0], trainer.data.train[torch.arange(0, 100, 5)]
    sims = dense_scores(network.matcher.train(), network.matcher.embed(batch))
    expected = network.method.per_pair_loss(sims, batch, hardness=0.0)
    torch.testing.assert_close(warm_up_losses(network, batch), expected, rtol=1e-4, atol=1e-6)


# -- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "num_epochs", "lr_update", "expected"),
    [
        # 0.1^(epoch // lr_update)
        ("ncr", 8, 3, [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        # 0.5^(epoch // lr_update), a tenth from epoch 4 on, another tenth from epoch 6 on
        ("mgcs", 8, 30, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("mgcs", 8, 3, [1, 1, 1, 0.5, 0.05, 0.05, 0.0025, 0.0025]),
        # odd numbers of epochs: from 2.5 and 3.75 on
        ("mgcs", 5, 30, [1, 1, 1, 0.1, 0.01]),
    ],
)
def test_factors_on_the_learning_rate(rule: str, num_epochs: int, lr_update: int, expected: list[float]) -> None:
    factors = [LR_RULES[rule](epoch, num_epochs, lr_update) for epoch in range(num_epochs)]
    assert factors == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--negatives", "anneal", "--anneal_epochs", "4"], [0, 0.25, 0.5, 0.75, 1, 1]),
        (["--negatives", "hardest"], [1] * 6),
        (["--negatives", "mean"], [0] * 6),
    ],
)
def test_hardness(flags: list[str], expected: list[float]) -> None:
    assert [hardness(parse_args(flags).training, epoch) for epoch in range(6)] == expected


def test_the_learning_rate_reaches_both_optimisers(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--num_epochs", "8", "--lr_update", "3", "--lr_rule", "mgcs")
    monkeypatch.setattr(trainer, "divide", lambda epoch: {})
    monkeypatch.setattr(trainer, "train_epochs", lambda epoch, divisions: None)
    trainer.do(stages(trainer.settings)[1 + 4])
    rates = [group["lr"] for n in trainer.networks for group in n.optimiser.param_groups]
    assert rates == pytest.approx([0.01 * 0.05] * 2)


@pytest.mark.parametrize(
    ("start", "expected"),
    [("0.5", [False, False, True, True]), ("0", [True] * 4), ("1", [False] * 4), ("0.6", [False] * 3 + [True])],
)
def test_when_the_noisy_side_is_trained(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, expected: list[bool]
) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--num_epochs", "4", "--noisy_start", start)
    probability = np.where(np.arange(200) < 60, 0.9, 0.1)
    seen: list[set[bool]] = []

    def label(student: Network, peer: Network, clean: Batch, noisy: Batch | None, chances: Tensor) -> SoftLabels:
        assert (clean.index < 60).all() and (noisy is None or (noisy.index >= 60).all())
        assert torch.equal(chances, torch.full((len(clean),), 0.9))
        seen[-1].add(noisy is not None)
        return SoftLabels(torch.ones(len(clean)))

    monkeypatch.setattr(trainer_module, "soft_labels", label)
    monkeypatch.setattr(trainer_module, "train_step", lambda network, parts, hardness, **settings: 0.0)
    for epoch in range(4):
        seen.append(set())
        trainer.state.next_stage()
        assert trainer.train_epoch(*trainer.networks, epoch, division_of(probability))
    assert seen == [{value} for value in expected]


# -- divisions and peers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_clean", [0, 1])
def test_without_a_clean_side_the_epoch_is_skipped_and_said(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], num_clean: int
) -> None:
    trainer = make_trainer(tiny_root, tmp_path)
    before = weights_of(trainer)
    student, peer = trainer.networks
    trainer.train_epoch(student, peer, 1, division_of(np.where(np.arange(200) < num_clean, 0.9, 0.1)))
    output = capsys.readouterr().out
    assert "warning: B finds no clean side; A is not trained this epoch" in output
    assert are_equal(before, weights_of(trainer))


def test_without_a_noisy_side_the_clean_one_is_trained(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path)
    before = weights_of(trainer)
    student, peer = trainer.networks
    trainer.train_epoch(student, peer, 1, division_of(np.full(200, 0.9)))
    after = weights_of(trainer)
    assert not are_equal(before[:1], after[:1]), "the student is trained"
    parameters = dict(peer.matcher.named_parameters())
    assert all(torch.equal(before[1][key], after[1][key]) for key in parameters), "the peer is not"


def test_each_network_is_trained_on_the_division_of_its_peer(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--warmup_epoch", "0", "--num_epochs", "1")
    divisions = {"A": division_of(np.full(200, 0.9)), "B": division_of(np.full(200, 0.8))}
    seen: list[tuple[str, str, Any]] = []
    monkeypatch.setattr(trainer, "divide", lambda epoch: trainer.state.divisions.update(divisions))
    monkeypatch.setattr(
        trainer,
        "train_epoch",
        lambda student, peer, epoch, given: seen.append((student.name, peer.name, given)) or True,
    )
    trainer.train()
    assert seen == [("A", "B", divisions["B"]), ("B", "A", divisions["A"])]


def test_labels_are_made_in_eval_mode_and_train_mode_comes_back(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--method", "ncr", "--dropout", "0.4")
    student, peer = trainer.networks
    clean, noisy = trainer.data.train[torch.arange(0, 60, 5)], trainer.data.train[torch.arange(60, 100, 5)]
    for network in trainer.networks:
        network.matcher.train()
    probability = torch.full((12,), 0.7)
    first = soft_labels(student, peer, clean, noisy, probability)
    second = soft_labels(student, peer, clean, noisy, probability)
    assert torch.equal(first.clean, second.clean), "no dropout"
    assert first.noisy is not None and first.noisy.shape == (8,) and first.clean.shape == (12,)
    assert not first.clean.requires_grad
    assert student.matcher.training and peer.matcher.training


def test_without_co_training(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--no_co_training", "--num_epochs", "1")
    assert [(s.name, p.name) for s, p in trainer.students_and_peers()] == [("A", "A")]
    record = trainer.train()
    assert set(record["test"]) == {"A"} and record["num_networks"] == 1
    assert len(load_checkpoint(tmp_path / BEST)["networks"]) == 1


# -- validation and test --------------------------------------------------------------------------------------------


def scripted(r_sum: float) -> dict[str, Retrieval]:
    """The mean of the networks has this rSum; A alone is the worse, the better their mean is."""
    own, mean = (Ranks(dict.fromkeys((1, 5, 10), value / 6), 1.0, 1.0) for value in (600 - r_sum, r_sum))
    return {"A": Retrieval(own, own), "mean": Retrieval(mean, mean)}


def test_the_best_networks_on_dev_are_the_ones_tested(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--num_epochs", "3", "--warmup_epoch", "1")
    scores = iter([100.0, 300.0, 300.0, 200.0])  # a tie keeps the earlier one
    at_dev: list[Weights] = []
    at_test: list[Weights] = []

    def evaluate(split: Any) -> dict[str, Retrieval]:
        (at_dev if split is trainer.data.dev else at_test).append(weights_of(trainer))
        return scripted(next(scores) if split is trainer.data.dev else 50.0)

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    record = trainer.train()
    assert len(at_dev) == 4 and len(at_test) == 1, "the test split is ranked once"
    assert are_equal(at_test[0], at_dev[1])
    assert not are_equal(at_test[0], at_dev[2]) and not are_equal(at_test[0], at_dev[3])
    assert (record["epoch"], record["epoch_title"], record["chosen_on"]) == (2, "epoch 1/3", "dev")
    assert record["dev"]["mean"]["rSum"] == pytest.approx(300) and record["test"]["mean"]["rSum"] == pytest.approx(50)
    saved = load_checkpoint(tmp_path / BEST)
    assert saved["epoch"] == 2 and are_equal(saved["networks"], at_dev[1])
