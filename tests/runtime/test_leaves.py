"""Errors, seeds, devices and logs."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from runtime.device import choose_device
from runtime.distributed import own_device
from runtime.errors import InputError, exit_on_input_error
from runtime.log import percent, table
from runtime.seed import generator, seed_everything


def draws(*purpose: str | int, seed: int = 0) -> list[int]:
    return torch.randint(0, 1000, (4,), generator=generator(seed, *purpose)).tolist()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(InputError("first\n  second"), 2, "error: first second\n"), (KeyboardInterrupt(), 130, "interrupted\n")],
)
def test_how_a_program_ends(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    @exit_on_input_error
    def main(error: BaseException) -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        main(error)
    assert (stop.value.code, *capsys.readouterr()) == (code, "", line)
    with pytest.raises(ValueError, match="ours"):
        main(ValueError("ours"))


def test_streams_are_what_they_were() -> None:
    assert draws("clean", "A", 0) == [450, 751, 610, 356]


def test_streams_differ_by_purpose_and_seed() -> None:
    streams = [
        draws("clean", "A", 0),
        draws("clean", "B", 0),
        draws("clean", "A", 1),
        draws("noisy", "A", 0),
        draws("clean", "A", 0, seed=1),
    ]
    assert len({tuple(s) for s in streams}) == len(streams)
    assert draws("clean", "A", 0) == streams[0]


def test_seed_everything_seeds_all_three() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_a_seed_of_any_size_is_a_seed() -> None:
    seed_everything(10**30)
    first = torch.rand(3)
    seed_everything(10**30)
    assert torch.equal(torch.rand(3), first)
    assert draws("x", seed=10**30) != draws("x", seed=10**30 + 1)


def test_without_cuda_every_index_means_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("0") == choose_device("cpu") == torch.device("cpu")
    assert not capsys.readouterr().err
    assert choose_device("7") == torch.device("cpu")
    assert capsys.readouterr().err == "warning: --gpu 7: this machine has no CUDA; the CPU is used\n"


@pytest.mark.parametrize(("processes", "current"), [("1", []), ("2", [torch.device("cuda", 1)])])
def test_each_of_several_processes_makes_its_gpu_the_current_one(
    monkeypatch: pytest.MonkeyPatch, processes: str, current: list[torch.device]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", processes)):
        monkeypatch.setenv(name, value)
    assert own_device("0") == torch.device("cuda", 1) and own_device("cpu") == torch.device("cpu")
    assert made == current


def test_with_cuda_the_index_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("1") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="--gpu 2"):
        choose_device("2")


@pytest.mark.parametrize("value", ["x", "-1", "", "cuda", "0,1", "1.0"])
def test_no_device(value: str) -> None:
    with pytest.raises(InputError, match="--gpu"):
        choose_device(value)


def test_table() -> None:
    assert table(["dev", "R@1"], [["A", 12.34], ["mean", 5]]) == "dev    R@1\n----  ----\nA     12.3\nmean     5"
    assert table(["dev", "i2t\nR@1"], [["A", 1.0]]) == "     i2t\ndev  R@1\n---  ---\nA    1.0"


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.996, "100 %"), (0.0123, "1.2 %"), (4e-5, "0.004 %"), (0.0, "0 %")]
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text
