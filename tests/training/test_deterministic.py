"""`--deterministic`: the same bits whatever reads the batches, and a clear line for what cannot repeat."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import run
from runtime.device import CUBLAS_WORKSPACE, repeatable
from runtime.errors import InputError
from tests.soak import differences, outcome
from tests.tiny import tiny_flags
from training.config import parse_args
from training.trainer import Trainer

FLAGS = ("--deterministic", "--module_name", "SGR", "--dropout", "0.4", "--noisy_start", "0")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Give torch its threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(root: Path, output: Path, *flags: str) -> dict[str, object]:
    """Train in this process; return what is left, less the settings that are to make no difference."""
    run.main(tiny_flags(root, output, *FLAGS, *flags))
    (folder,) = output.iterdir()
    found = outcome(folder)
    for value in found.values():
        if isinstance(value, dict) and "config" in value:
            del value["config"]["training"]["workers"]
    return found


def test_the_same_seed_the_same_bits_whatever_the_workers(tiny_root: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    alone = trained(tiny_root, tmp_path / "alone")
    for name, flags in (("again", ()), ("1", ("--workers", "1")), ("2", ("--workers", "2"))):
        assert not differences(alone, trained(tiny_root, tmp_path / name, *flags)), name
    other = differences(alone, trained(tiny_root, tmp_path / "other", "--seed", "1"))
    assert {"checkpoint_dev_best.pth.tar", "metrics.jsonl", "results.json"} <= set(other), "the comparison can fail"


@pytest.mark.parametrize("wanted", [True, False])
def test_the_whole_run_is_under_the_rule(
    wanted: bool, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, str | None]] = []
    monkeypatch.delenv(CUBLAS_WORKSPACE, raising=False)

    def look(self: Trainer) -> dict[str, object]:
        seen.append((torch.are_deterministic_algorithms_enabled(), os.environ.get(CUBLAS_WORKSPACE)))
        return {}

    monkeypatch.setattr(Trainer, "train", look)
    flag = "--deterministic" if wanted else "--no-deterministic"
    run.train(parse_args(tiny_flags(tiny_root, tmp_path, flag)))
    assert seen == [(wanted, ":4096:8" if wanted else None)]
    assert not torch.are_deterministic_algorithms_enabled() and CUBLAS_WORKSPACE not in os.environ


def test_an_operator_that_cannot_repeat_is_refused() -> None:
    values = torch.zeros(3)
    with pytest.raises(InputError, match="^--deterministic: put_ does not have a deterministic.*--gpu cpu"):
        with repeatable(True):
            values.put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    with pytest.raises(RuntimeError, match="another fault"):
        with repeatable(True):
            raise RuntimeError("another fault")
    with repeatable(False):
        values.put_(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))


def test_cublas_that_cannot_repeat_is_refused(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":0:0")
    with pytest.raises(InputError, match="CUBLAS_WORKSPACE_CONFIG is ':0:0'; unset it, or make it :4096:8 or :16:8"):
        run.train(parse_args(tiny_flags(tiny_root, tmp_path / "output", "--deterministic")))
    assert not (tmp_path / "output").exists()
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":16:8")
    with repeatable(True):
        assert os.environ[CUBLAS_WORKSPACE] == ":16:8"
    assert os.environ[CUBLAS_WORKSPACE] == ":16:8"
