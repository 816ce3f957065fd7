"""How far a long piece of work is: a bar on a terminal; elsewhere a line now and then, for whoever reads the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

SOONEST, LATEST = 10.0, 60.0
"""Seconds between two lines: not sooner, and not much later."""

NARROW = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
"""A bar that has room for what is left within 80 columns; tqdm's own tells counts and pairs a second before it."""


def say(text: str) -> None:
    """Print a line (or a table) for the person who waits; bars stay below it."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Return a time span in words: two digits or so of it.

    duration(0.0312), duration(75), duration(200000) == "0.031 s", "75 s", "2 days 8 h"
    """
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    if hours < 24:
        return f"{minutes // 60} h {minutes % 60} min" if minutes < 600 else f"{hours} h"
    days = f"{hours // 24} day" + ("s" if hours >= 48 else "")
    return f"{days} {hours % 24} h" if hours < 240 and hours % 24 else days


class Progress:
    """Counts things up to `total`, and shows how many, the latest loss and about how long it still takes.

    Args:
        title: what is done.
        total: things to do.
        line: of several bars at once, which; without a terminal only line 0 speaks.
        unit: what is counted.
        is_shown: False: silent.
        every: without a terminal, calls of `advance` between two lines, if that takes SOONEST seconds or more.
        left: tells what else than this work is still to be waited for, as "2 h of the run".
    """

    def __init__(
        self,
        title: str,
        total: int,
        line: int = 0,
        unit: str = "pairs",
        *,
        is_shown: bool = True,
        every: int = 1,
        left: Callable[[], str] | None = None,
    ) -> None:
        is_terminal = sys.stderr.isatty()
        self._title, self._total, self._unit, self._every, self._left = title, total, unit, every, left
        self._speaks = is_shown and not is_terminal and line == 0
        self._calls, self._done, self._before = 0, 0, 0
        self._started = self._spoken = time.monotonic()
        self._is_bar = is_shown and is_terminal
        self._bar = tqdm(
            total=total,
            desc=title,
            unit=f" {unit}",
            leave=False,
            disable=not self._is_bar,
            position=line,
            bar_format=None if left is None else NARROW,
        )

    def skip(self, count: int) -> None:
        """Count `count` things that were done earlier."""
        self._done += count
        self._before += count
        self._bar.update(count)

    def advance(self, count: int, loss: float | None = None) -> None:
        """Count `count` more things as done."""
        self._done += count
        self._calls += 1
        if self._is_bar:
            shown = [] if loss is None else [f"loss {loss:.3f}"]
            shown += [] if self._left is None else [f"{self._left()} left"]
            self._bar.set_postfix_str("; ".join(shown), refresh=False)
            self._bar.update(count)
        elif self._speaks:
            waited = time.monotonic() - self._spoken
            if waited >= LATEST or (waited >= SOONEST and self._calls >= self._every):
                self._speak(loss)

    def _speak(self, loss: float | None) -> None:
        self._spoken, self._calls = time.monotonic(), 0
        own = (self._spoken - self._started) / max(1, self._done - self._before) * max(0, self._total - self._done)
        then = f"about {duration(own)} left" if self._left is None else f"about {self._left()} left"
        said = "" if loss is None else f", loss {loss:.3f}"
        say(f"  {self._title}: {self._done} of {self._total} {self._unit}{said}; {then}")

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
