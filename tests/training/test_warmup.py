"""Warm-up: which pairs a step takes, and that it is the mean hinge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_utils.batch import Batch
from tests.models.networks import dense_scores
from tests.training.trainers import make_trainer
from training import trainer as trainer_module
from training.config import TrainingConfig
from training.network import Network
from training.trainer import warm_up_step


class Script:
    """Stand-ins for warm-up losses and steps: given losses go in, which pairs each network is stepped on comes out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, losses: dict[str, list[float]]) -> None:
        self.leaves = {name: torch.tensor(values, requires_grad=True) for name, values in losses.items()}
        self.stepped: dict[str, list[int]] = {}
        monkeypatch.setattr(trainer_module, "warm_up_losses", lambda network, batch: self.leaves[network.name] * 1)
        monkeypatch.setattr(Network, "step", lambda network, loss, grad_clip: self.step(network, loss))

    def step(self, network: Network, loss: Tensor) -> float:
        (gradient,) = torch.autograd.grad(loss, self.leaves[network.name])
        self.stepped[network.name] = torch.nonzero(gradient).flatten().tolist()
        return float(loss.detach())


LOSSES = {"A": [5.0, 1, 4, 2, 3, 9, 8, 7, 6, 10], "B": [1.0, 9, 2, 8, 3, 7, 4, 6, 5, 10]}


@pytest.mark.parametrize(
    ("kind", "rate", "expected"),
    [
        ("warmup_sele", "0.3", {"A": [1, 3, 4]}),
        ("warmup_sele", "0.39", {"A": [1, 3, 4]}),
        ("warmup_sele", "0.01", {"A": [1]}),
        ("warmup_sele", "1.0", {"A": list(range(10))}),
        ("warmup", "0.3", {"A": list(range(10))}),
        ("co_teaching", "0.3", {"A": [0, 2, 4], "B": [1, 3, 4]}),
        ("co_teaching", "0.2", {"A": [0, 2], "B": [1, 3]}),
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
    script = Script(monkeypatch, LOSSES)
    batch = trainer.data.train[torch.arange(10)]
    loss = warm_up_step(trainer.networks[: len(expected)], batch, trainer.settings)
    assert script.stepped == expected
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


@pytest.mark.parametrize("module", ["VSE", "SGR"])
@pytest.mark.parametrize("kind", ["warmup", "warmup_sele"])
def test_warm_up_takes_the_mean_hinge(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    flags = ("--dropout", "0", "--method", "mgcs", "--warmup_type", kind, "--module_name", module)
    trainer = make_trainer(tiny_root, tmp_path, *flags, "--warmup_rate", "0.3")
    network = trainer.networks[0]
    batch = trainer.data.train[torch.arange(0, 100, 5)]
    network.matcher.train()
    sims = dense_scores(network.matcher, network.matcher.embed(batch))
    losses = network.method.per_pair_loss(sims, batch, hardness=0.0)
    expected = losses.sum() if kind == "warmup" else losses.sort().values[:6].sum()  # int(0.3 * 20) of smallest loss
    parameters = list(network.matcher.parameters())
    gradients = torch.autograd.grad(expected, parameters, allow_unused=True)
    taken: list[Tensor] = []

    def step(network: Network, loss: Tensor, grad_clip: float) -> float:
        taken.extend(torch.autograd.grad(loss, parameters, allow_unused=True))
        return float(loss.detach())

    monkeypatch.setattr(Network, "step", step)
    assert warm_up_step([network], batch, trainer.settings) == pytest.approx(float(expected.detach()) / 20, rel=1e-4)
    for own, wanted in zip(taken, gradients, strict=True):
        assert (own is None) == (wanted is None)
        if own is not None:
            torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-4)
