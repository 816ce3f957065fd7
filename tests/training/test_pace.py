"""What a run says of its time: a line on its first steps, and sums of what is left."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import run
from runtime import log
from tests.tiny import tiny_flags
from training import schedule
from training.checkpointing import RunState, Steps
from training.schedule import CLEAN, NOISY, WARM_UP, Pace


def test_what_is_left_is_the_sum_of_what_is_to_come() -> None:
    """Two networks in turn; 4 steps an epoch over all pairs."""
    pace = Pace([WARM_UP, CLEAN, NOISY, NOISY], 4, {WARM_UP: 2, CLEAN: 2, NOISY: 2})
    state = RunState([])
    for seconds in (7.0, 1.0, 1.0):
        pace.stepped(WARM_UP, seconds)
    assert pace.seconds(WARM_UP) == pace.seconds(NOISY) == 1.0, "the slow first step is left out, others are taken"
    assert pace.left(state) == (8.0, 32.0)
    assert pace.left_in_words(state) == "8 s of the epoch, at least 32 s of the run"
    pace.last = {"ranking": 10.0, "division": 3.0}
    assert pace.left(state) == (18.0, 32.0 + 5 * 10 + 3 * 3)
    assert pace.left_in_words(state) == "18 s of the epoch, 91 s of the run"
    pace.stepped(NOISY, 4.0)
    pace.sizes[NOISY] = 3
    state = RunState([], stage=2, is_divided=True, steps={"A": Steps(3), "B": Steps(1)})
    assert pace.left(state) == (2 * 4.0 + 10, 2 * 4.0 + 10 + (6 * 4.0 + 3 + 10) + 10)


def test_networks_that_step_together_take_one_turn() -> None:
    pace = Pace([WARM_UP], 4, {WARM_UP: 1})
    pace.stepped(WARM_UP, 2.0)
    assert pace.left(RunState([], steps={"A+B": Steps(1)})) == (6.0, 6.0)


def test_a_run_tells_how_long_it_takes(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "SOONEST", 0.0)
    monkeypatch.setattr(schedule, "FIRST_SECONDS", 0.0)
    run.main(tiny_flags(tiny_root, tmp_path, "--log_step", "1"))
    lines = capfd.readouterr().out.splitlines()
    (word,) = [number for number, line in enumerate(lines) if line.startswith("a step takes about ")]
    assert re.fullmatch(r"a step takes about \S+ s here; left are .+ of the epoch, at least .+ of the run", lines[word])
    assert word < 10
    said = [line for line in lines if line.endswith(" of the run left")]
    for title in ("warm-up 1 A", "warm-up 1 B", "epoch 2 A"):
        assert any(re.fullmatch(rf"  {title}: \d+ of \d+ pairs(, loss \S+)?; about .+", line) for line in said)
    assert "at least" in said[0] and "at least" not in said[-1], "by then everything was done once"
