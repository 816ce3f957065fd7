"""What a run says of its time: a line on its first steps, lines where there is no terminal, and honest sums."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch

import run
from runtime import log
from runtime.log import Progress, duration
from tests.tiny import tiny_flags
from tests.training.trainers import make_trainer
from training import pace
from training.pace import CLEAN, DIVISION, NOISY, RANKING, WARM_UP, Spent


@pytest.mark.parametrize(
    "left", ["53 s of the epoch, 11 min of the run", "1 h 53 min of the epoch, 2 days 8 h of the run"]
)
def test_a_bar_of_80_columns_has_room_for_what_is_left(left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    bar = Progress("epoch 12 A", 145_000, left=lambda: left)
    bar._bar.ncols, bar._bar.mininterval = 80, 0.0
    bar.advance(14_500, 0.5523)
    shown = terminal.getvalue().split("\r")[-1]
    assert len(shown) <= 80 and shown.startswith("epoch 12 A:  10%|")
    assert f", loss 0.552; {left.removesuffix(' of the run')}" in shown
    bar.close()


def test_durations_are_words() -> None:
    spans = (0.03123, 4.2, 75, 600, 11_400, 86_400, 200_000, 1_036_800)
    told = ["0.031 s", "4.2 s", "75 s", "10 min", "3 h 10 min", "1 day", "2 days 8 h", "12 days"]
    assert [duration(span) for span in spans] == told


def test_without_a_terminal_lines_come_neither_too_often_nor_too_seldom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    bars = [Progress("epoch 1 A", 1000, line, every=50) for line in (0, 1)] + [Progress("x", 1000, is_shown=False)]
    bars[0].skip(100)
    spoken = []
    for step in range(1, 261):  # fifty quick steps take 6 s, fifty slow ones 100 s
        now += 0.125 if step <= 160 else 2.0
        for bar in bars:
            bar.advance(3, 0.5)
        if found := capsys.readouterr().out:
            spoken.append((round(now), found))
    times = [when for when, _ in spoken]
    assert times == [10, 20, 80, 140, 200], "from 20 s on at least once a minute"
    assert spoken[0][1] == "  epoch 1 A: 340 of 1000 pairs, loss 0.500; about 28 s left\n"


def test_what_is_left_is_the_sum_of_what_is_to_come(tiny_root: Path, tmp_path: Path) -> None:
    flags = ("--method", "mgcs", "--warmup_epoch", "2", "--num_epochs", "4", "--noisy_start", "0.5")
    trainer = make_trainer(tiny_root, tmp_path, *flags, "--batch_size", "50")  # 200 pairs: four batches
    known, position = trainer.running.pace, trainer.position
    tiles = 8 * 40 / 50**2  # of dev, and of test
    known.took(WARM_UP, 7.0)
    known.took(WARM_UP, 1.0)
    assert known.seconds(WARM_UP) == 1.0, "the first step does not count once there is another"
    assert 2 < known.seconds(NOISY) < 4 and known.seconds(DIVISION) < 1, "taken from others by their usual cost"
    for kind, seconds in ((CLEAN, 2.0), (NOISY, 4.0), (DIVISION, 0.5), (RANKING, 10.0)):
        known.learnt.spent[kind] = Spent(10 * seconds, 10)
    ranking = 2 * tiles * 10.0
    stage, whole = known.left(position)
    assert stage == pytest.approx(8 * 1.0 + ranking)
    epochs = [8 * (0.5 + 2.0), 8 * (0.5 + 2.0), 8 * (0.5 + 4.0), 8 * (0.5 + 4.0)]
    assert whole == pytest.approx(2 * 8 * 1.0 + sum(epochs) + 7 * ranking)
    position.stage, position.is_divided, position.batches = 4, True, {"A": 4, "B": 1}
    known.learnt.steps[CLEAN] = 3  # the last clean side had three batches; of a noisy one nothing is known yet
    assert known.left(position)[0] == pytest.approx((6 - 5) * 4.0 + ranking)
    position.stage = 6
    assert known.left(position) == (0.0, pytest.approx(ranking)), "the test"


@pytest.mark.parametrize("side_by_side", [False, True], ids=["in turn", "side by side"])
def test_a_run_tells_how_long_it_takes(
    side_by_side: bool,
    tiny_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(log, "SOONEST", 0.0)
    monkeypatch.setattr(pace, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    flags = ["--log_step", "1", *(["--side_by_side"] if side_by_side else [])]
    run.main(tiny_flags(tiny_root, tmp_path, *flags))
    lines = capfd.readouterr().out.splitlines()
    (word,) = [number for number, line in enumerate(lines) if line.startswith("a step takes about ")]
    assert re.fullmatch(r"a step takes about \S+ s here, what is left of the run about .+", lines[word])
    said = [line for line in lines if line.endswith(" of the run left")]
    assert word < 10 and lines.index(said[0]) < 10
    for title in ("warm-up 1 A", "division 2 A", "epoch 2 A"):
        assert any(re.fullmatch(rf"  {title}: \d+ of \d+ pairs(, loss \S+)?; about .+", line) for line in said)
    assert any("warm-up 1 B" in line for line in said) != side_by_side, "side by side one speaks for both"
