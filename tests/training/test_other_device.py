"""Nothing of a run mixes devices: a division with neighbours, a step and a validation, on a device beside the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import Adam

import training.network
import training.trainer
from tests.other_device import other_device
from tests.training.trainers import make_trainer

SMALL = ("--num_epochs", "1", "--batch_size", "40", "--word_dim", "4", "--embed_size", "8")


@pytest.mark.parametrize(
    "flags",
    [
        ("--method", "consensus", "--neighbour_space", "features"),
        ("--method", "mgcs", "--module_name", "SGR", "--noisy_start", "0", "--drift_correction", "both"),
        ("--method", "dsdmr", "--noisy_start", "0"),
    ],
    ids=["consensus", "mgcs", "dsdmr"],
)
def test_a_run_keeps_to_its_device(
    flags: tuple[str, ...], tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cpu", "other"):
        (tmp_path / name).mkdir()
    there = make_trainer(tiny_root, tmp_path / "cpu", *SMALL, *flags).divide(0)["A"]
    with other_device() as device:
        with pytest.raises(RuntimeError, match="same device"):
            torch.zeros(3, device=device) + torch.zeros(3)
        monkeypatch.setattr(training.trainer, "own_device", lambda gpu: device)
        monkeypatch.setattr(training.network, "build_optimiser", lambda module, rate: Adam(module.parameters(), rate))
        trainer = make_trainer(tiny_root, tmp_path / "other", *SMALL, *flags)
        assert {p.device for n in trainer.networks for p in n.matcher.parameters()} == {device}
        found = trainer.divide(0)
        np.testing.assert_allclose(found["A"].signal, there.signal, atol=1e-6)
        before = [p.detach().cpu().clone() for p in trainer.networks[0].matcher.parameters()]
        trainer.warm_up(0)
        trainer.train_epochs(0, found)
        after = [p.detach().cpu() for p in trainer.networks[0].matcher.parameters()]
        assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
        assert trainer.evaluate(trainer.data.dev)["A"].r_sum > 0
