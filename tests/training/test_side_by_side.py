"""Networks side by side: the same runs as one after the other, records in order, errors as errors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from runtime.errors import InputError, Interruption
from tests.tiny import tiny_flags
from tests.training.test_trainer import are_equal, run_and_read
from tests.training.trainers import make_trainer
from training import passes
from training.side_by_side import is_possible, run_side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Give torch two threads for a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_processes_of_one_thread_at_once(two_threads: None) -> None:
    gate = get_context("fork").Barrier(2)

    def task(number: int) -> tuple[int, int, int]:
        gate.wait(30)  # both must be running at once
        return number, torch.get_num_threads(), os.getpid()

    (first, threads, own), (second, other_threads, other) = run_side_by_side(
        [lambda: task(1), lambda: task(2)], Interruption()
    )
    assert (first, second, threads, other_threads) == (1, 2, 1, 1)
    assert len({own, other, os.getpid()}) == 3
    assert torch.get_num_threads() == 2


def test_what_a_task_changes_stays_in_its_process() -> None:
    weights = torch.zeros(3)
    found = run_side_by_side([lambda: weights.add_(1), lambda: weights.add_(2)], Interruption())
    assert [f.tolist() for f in found] == [[1, 1, 1], [2, 2, 2]] and weights.tolist() == [0, 0, 0]


def test_large_results_pass() -> None:
    found = run_side_by_side([lambda: torch.ones(2_000_000), lambda: torch.ones(3_000_000)], Interruption())
    assert [int(f.sum()) for f in found] == [2_000_000, 3_000_000]


def test_an_error_is_raised_once_all_have_ended(tmp_path: Path) -> None:
    def fail() -> None:
        raise InputError("broken row")

    with pytest.raises(InputError) as caught:
        run_side_by_side([fail, lambda: (tmp_path / "ended").touch()], Interruption())
    assert str(caught.value) == "broken row" and (tmp_path / "ended").exists()


def test_a_fault_says_where_it_was() -> None:
    class Unpicklable(Exception):
        pass

    def fault() -> None:
        raise ZeroDivisionError("here")

    def strange() -> None:
        raise Unpicklable("there")

    with pytest.raises(ZeroDivisionError) as caught:
        run_side_by_side([fault], Interruption())
    assert "in fault" in "".join(caught.value.__notes__)
    with pytest.raises(RuntimeError, match="in strange"):
        run_side_by_side([strange], Interruption())


def test_a_killed_process_is_told() -> None:
    with pytest.raises(RuntimeError, match="died .signal 9"):
        run_side_by_side([lambda: os.kill(os.getpid(), signal.SIGKILL)], Interruption())


def test_nobody_outlives_a_killed_parent(tmp_path: Path) -> None:
    """Forks end when the process that waits for them is killed and cannot say so."""

    def wait() -> None:
        (tmp_path / str(os.getpid())).touch()
        time.sleep(60)

    parent = get_context("fork").Process(target=lambda: run_side_by_side([wait, wait], Interruption()))
    parent.start()
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.01)
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    left = [int(path.name) for path in tmp_path.iterdir()]
    for _ in range(1000):
        if not any(_is_running(pid) for pid in left):
            return
        time.sleep(0.01)
    pytest.fail("forks went on after their parent's death")


def _is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("method", ["mgcs", "baseline"])
def test_the_run_is_the_one_of_networks_in_turn(
    tiny_root: Path, tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Dropout, shuffles and divisions of a network do not depend on the other; the records do not on who is faster."""
    flags = ("--method", method, "--module_name", "SGR", "--noisy_start", "1", "--num_epochs", "2", "--dropout", "0.4")
    used: list[int] = []
    original = passes.run_side_by_side
    monkeypatch.setattr(
        passes, "run_side_by_side", lambda tasks, told: used.append(len(tasks)) or original(tasks, told)
    )
    together, weights = run_and_read(tiny_root, tmp_path / "a", *flags, "--side_by_side")
    assert len(used) > 5 and set(used) == {2}
    torch.set_num_threads(1)  # what each had
    before = len(used)
    in_turn, other_weights = run_and_read(tiny_root, tmp_path / "b", *flags)
    assert len(used) == before and are_equal(weights, other_weights)
    assert in_turn == together


def test_drift_factors_in_training_see_the_bank_of_the_division(
    tiny_root: Path, tmp_path: Path, two_threads: None
) -> None:
    """What a method remembers of a division made in another process is there when training asks for it."""
    flags = ("--drift_correction", "both", "--drift_neighbours", "bank", "--noisy_start", "1", "--num_epochs", "1")
    _, weights = run_and_read(tiny_root, tmp_path / "a", *flags, "--side_by_side")
    torch.set_num_threads(1)
    _, other_weights = run_and_read(tiny_root, tmp_path / "b", *flags)
    assert are_equal(weights, other_weights)


def test_networks_that_need_each_other_take_turns(
    tiny_root: Path, tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BiCro's labels come from the peer as it is: while one is trained the other stands still."""
    trainer = make_trainer(tiny_root, tmp_path, "--method", "bicro", "--side_by_side")
    active: list[int] = []
    monkeypatch.setattr(trainer, "train_epoch", lambda *_: active.append(os.getpid()) or True)
    trainer.train_epochs(0, {})
    assert active == [os.getpid()] * 2


def test_one_thread_is_not_shared(two_threads: None) -> None:
    assert is_possible(CPU) and not is_possible(torch.device("cuda"))
    torch.set_num_threads(1)
    assert not is_possible(CPU)


def test_the_flag_is_off_by_default(tiny_root: Path, tmp_path: Path) -> None:
    assert not make_trainer(tiny_root, tmp_path).settings.side_by_side
    assert "--side_by_side" not in tiny_flags(tiny_root, tmp_path)
