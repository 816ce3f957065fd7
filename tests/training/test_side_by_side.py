"""Networks side by side: the same runs as one after the other, records in order, errors as errors."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from runtime.errors import InputError
from tests.tiny import tiny_flags
from tests.training.test_trainer import are_equal, run_and_read
from tests.training.trainers import make_trainer
from training import trainer as trainer_module
from training.side_by_side import run_side_by_side


@pytest.fixture
def two_threads() -> object:
    """Give torch two threads for a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_and_threads_are_shared(two_threads: object) -> None:
    gate = threading.Barrier(2, timeout=30)  # both must be running at once

    def task(number: int) -> tuple[int, int]:
        gate.wait()
        return number, torch.get_num_threads()

    assert run_side_by_side([lambda: task(1), lambda: task(2)]) == [(1, 1), (2, 1)]
    assert torch.get_num_threads() == 2


def test_an_error_is_raised_once_all_have_ended(two_threads: object) -> None:
    ended: list[int] = []

    def fail() -> None:
        raise InputError("broken row")

    with pytest.raises(InputError, match="broken row"):
        run_side_by_side([fail, lambda: ended.append(1)])
    assert ended == [1] and torch.get_num_threads() == 2


@pytest.mark.parametrize("method", ["mgcs", "baseline"])
def test_the_run_is_the_one_of_networks_in_turn(
    tiny_root: Path, tmp_path: Path, two_threads: object, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Dropout, shuffles and divisions of a network do not depend on the other; the records do not on who is faster."""
    flags = ("--method", method, "--module_name", "SGR", "--noisy_start", "1", "--num_epochs", "2", "--dropout", "0.4")
    used: list[int] = []
    original = trainer_module.run_side_by_side
    monkeypatch.setattr(trainer_module, "run_side_by_side", lambda tasks: used.append(len(tasks)) or original(tasks))
    together, weights = run_and_read(tiny_root, tmp_path / "a", *flags, "--side_by_side")
    assert len(used) > 5 and set(used) == {2}
    again, same_weights = run_and_read(tiny_root, tmp_path / "b", *flags, "--side_by_side")
    assert again == together and are_equal(weights, same_weights)
    torch.set_num_threads(1)  # what each had
    in_turn, other_weights = run_and_read(tiny_root, tmp_path / "c", *flags)
    assert are_equal(weights, other_weights)
    assert sorted(map(str, in_turn)) == sorted(map(str, together))


def test_networks_that_need_each_other_take_turns(
    tiny_root: Path, tmp_path: Path, two_threads: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BiCro's labels come from the peer as it is: while one is trained the other stands still."""
    trainer = make_trainer(tiny_root, tmp_path, "--method", "bicro", "--side_by_side")
    active: list[str] = []

    def train_epoch(student: object, peer: object, epoch: int, division: object) -> None:
        active.append(threading.current_thread().name)

    monkeypatch.setattr(trainer, "train_epoch", train_epoch)
    trainer.train_epochs(0, {})
    assert active == ["MainThread"] * 2


def test_the_flag_is_off_by_default(tiny_root: Path, tmp_path: Path) -> None:
    assert not make_trainer(tiny_root, tmp_path).settings.side_by_side
    assert "--side_by_side" not in tiny_flags(tiny_root, tmp_path)
