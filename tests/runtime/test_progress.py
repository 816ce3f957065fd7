"""How far a piece of work is: bars with room for what is left, lines where there is no terminal."""

from __future__ import annotations

import io

import pytest

from runtime import log
from runtime.log import Progress, duration


def test_a_bar_of_80_columns_has_room_for_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    left = "1 h 53 min of the epoch, 2 days 8 h of the run"
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
    bars = [Progress("epoch 1 A", 1000, every=50), Progress("x", 1000, is_shown=False)]
    bars[0].skip(100)
    spoken = []
    for step in range(1, 261):  # fifty quick steps take 6 s, fifty slow ones 100 s
        now += 0.125 if step <= 160 else 2.0
        for bar in bars:
            bar.advance(3, 0.5)
        if found := capsys.readouterr().out:
            spoken.append((round(now), found))
    assert [when for when, _ in spoken] == [10, 20, 80, 140, 200], "from 20 s on at least once a minute"
    assert spoken[0][1] == "  epoch 1 A: 340 of 1000 pairs, loss 0.500; about 28 s left\n"
