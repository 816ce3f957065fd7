"""What a method remembers survives a resume, and a pass can be made again: for every method there is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from methods import known_methods
from methods.blocks.method import Bank
from runtime.torch_file import as_bytes, read_torch_file
from tests.training.trainers import make_trainer
from training import division as look_module
from training.division import Division

VARIANTS: dict[str, tuple[str, ...]] = {
    **{name: ("--method", name) for name in known_methods()},
    **{
        f"mgcs, bank, {where}": ("--method", "mgcs", "--drift_neighbours", "bank", "--drift_correction", where)
        for where in ("both", "training", "division", "off")
    },
    "dsdmr, consensus": ("--method", "dsdmr", "--signal", "consensus", "--min_separation", "0"),
    "ncr, consensus": ("--method", "ncr", "--signal", "consensus", "--loss", "bounded"),
}
DIVIDING = [name for name, kind in known_methods().items() if kind.divides]

RENEWED = {"config", "_fitted", "share_noisy"}
"""Attributes that the base class sets before anything looks at them: every division, and the trainer at each epoch."""


def is_same(one: Any, other: Any) -> bool:
    """Compare what a method may remember."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and all(is_same(value, vars(other)[name]) for name, value in vars(one).items())
    return bool(one == other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_method_remembers_survives_a_resume(variant: str, tiny_root: Path, tmp_path: Path) -> None:
    """A trainer is brought into an epoch, another to its saved state: both remember, divide and learn alike."""
    for name in "ab":
        (tmp_path / name).mkdir()
    own = ("--noisy_start", "0", "--noise_ratio", "0.4", *VARIANTS[variant])
    trainer, other = (make_trainer(tiny_root, tmp_path / name, *own) for name in "ab")
    trainer.warm_up(0)
    trainer.train_epochs(0, trainer.divide(0))
    saved = {
        "networks": [network.state() for network in trainer.networks],
        "divisions": {name: division.as_state() for name, division in trainer.state.divisions.items()},
    }
    read = read_torch_file(bytes(as_bytes(saved)))
    other.state.divisions = {name: Division.from_state(state) for name, state in read["divisions"].items()}
    for network, resumed, state in zip(trainer.networks, other.networks, read["networks"], strict=True):
        resumed.restore(state)
        for name, value in vars(network.method).items():
            if name in RENEWED or (isinstance(value, Bank) and not network.method.state()):
                continue  # a bank that training does not look at is made anew by each division
            assert is_same(value, vars(resumed.method).get(name)), f"{name} is lost on resume; see Method.state"
    divided = [t.divide(1) for t in (trainer, other)]
    for name, division in divided[0].items():
        for field in ("signal", "probability", "is_clean"):
            assert np.array_equal(getattr(division, field), getattr(divided[1][name], field)), (name, field)
    for t, divisions in zip((trainer, other), divided, strict=True):
        t.train_epochs(1, divisions)
    for network, resumed in zip(trainer.networks, other.networks, strict=True):
        assert all(map(torch.equal, network.matcher.state_dict().values(), resumed.matcher.state_dict().values()))


@pytest.mark.parametrize("threshold", ["0.05", "0.95"])
@pytest.mark.parametrize("method", DIVIDING)
def test_the_look_trusts_the_pairs_that_the_method_calls_clean(
    method: str, threshold: str, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own filter and --p_threshold: pairs that are offered no new partner are those it trains on."""
    flags = ("--method", method, "--refine", "rematch", "--p_threshold", threshold, "--noise_ratio", "0.4")
    trainer = make_trainer(tiny_root, tmp_path, *flags, "--no_co_training", "--signal_memory", "0")
    trusted: list[np.ndarray] = []
    original = look_module.make_offers
    monkeypatch.setattr(look_module, "make_offers", lambda bank, t: original(bank, trusted.append(t) or t))
    trainer.warm_up(0)
    trainer.warm_up(1)
    division = trainer.divide(0)["A"]
    assert np.array_equal(trusted[0], division.is_clean) or trusted[0].all(), "of all clean pairs NCR takes 1 % out"
    assert np.array_equal(trusted[0], division.probability > float(threshold))
