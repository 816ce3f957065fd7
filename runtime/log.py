"""The one writer of a run: lines on the terminal, progress, metrics.jsonl, TensorBoard events, arrays.

Nothing else in the suite prints while it trains. On a full disk training goes on: records of metrics.jsonl are kept
and written when there is room, what else cannot be written is left out. Progress is a bar on a terminal, and elsewhere
a line now and then, for whoever reads the log.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from runtime.errors import InputError
from runtime.files import whole_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

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
        unit: what is counted.
        is_shown: False: silent.
        every: without a terminal, calls of `advance` between two lines, if that takes SOONEST seconds or more.
        left: tells what else than this work is still to be waited for, as "2 h of the run".
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str = "pairs",
        *,
        is_shown: bool = True,
        every: int = 1,
        left: Callable[[], str] | None = None,
    ) -> None:
        is_terminal = sys.stderr.isatty()
        self._title, self._total, self._unit, self._every, self._left = title, total, unit, every, left
        self._speaks = is_shown and not is_terminal
        self._calls, self._done, self._before = 0, 0, 0
        self._started = self._spoken = time.monotonic()
        self._is_bar = is_shown and is_terminal
        self._bar = tqdm(
            total=total,
            desc=title,
            unit=f" {unit}",
            leave=False,
            disable=not self._is_bar,
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


METRICS, EVENTS, ARRAYS = "metrics.jsonl", "tensorboard", "divisions"


class Events:
    """The TensorBoard events of a run; those that a full disk does not take are lost until the next `flush`.

    Args:
        folder: where they are, or will be.
        warn: told in one line what could not be written.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder, self._warn = folder, warn
        self._writer: SummaryWriter | None = None
        _leave_out_tracebacks()
        self.flush()

    def record(self, record: Callable[[SummaryWriter], object], *, begins: bool = False) -> None:
        """Let `record` write an event; where no file is being written, `begins` one or does nothing."""
        from torch.utils.tensorboard import SummaryWriter  # here: it takes long to load

        try:
            if self._writer is None and begins:
                self._writer = SummaryWriter(str(self._folder))
            if self._writer is not None:
                record(self._writer)
        except OSError as error:
            self._writer = None  # its thread has ended
            why = error.strerror or error
            self._warn(f"warning: {self._folder} cannot be written: {why}; its events are lost until the next save")

    def flush(self) -> None:
        """Write everything to the file; after a fault begin another one."""
        self.record(lambda writer: writer.flush(), begins=True)


def _leave_out_tracebacks() -> None:
    """Let TensorBoard's writing thread end in silence when it cannot write: its next call raises that error again."""
    before = threading.excepthook
    if getattr(before, "leaves_out_tracebacks", False):
        return

    def told(ended: threading.ExceptHookArgs) -> None:
        if not (isinstance(ended.exc_value, OSError) and type(ended.thread).__module__.startswith("tensorboard.")):
            before(ended)

    told.leaves_out_tracebacks = True  # type: ignore[attr-defined]
    threading.excepthook = told


class RunLog:
    """Logs of one run in its output folder.

    Args:
        folder: the run's output folder, which must exist; None: nothing is said or recorded, since of several processes
            of a run one speaks for all.
        size: go on with logs of this `size`, and forget what is behind it; None: begin anew.
    """

    def __init__(self, folder: Path | None, size: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        if folder is None:
            return
        for path in self._files(folder):  # not the names in `size`, which a file tampered with can lead anywhere
            end = (size or {}).get(path.relative_to(folder).as_posix())
            if end is None:
                path.unlink()
            elif end < path.stat().st_size:
                os.truncate(path, end)
        if size is None:
            shutil.rmtree(folder / ARRAYS, ignore_errors=True)
        self._metrics = open(folder / METRICS, "ab", buffering=0)
        self._unwritten = b""
        self._is_full = False
        self._events = Events(folder / EVENTS, self.say)

    def say(self, text: str) -> None:
        """Print a line (or a table) for the person who waits."""
        if self._folder is not None:
            say(text)

    def scalars(self, step: int, values: Mapping[str, Any], **where: Any) -> None:
        """Record named values: one JSON line, and each number as a TensorBoard scalar under its name.

        Numbers within mappings of `where` become scalars too, under the event's name: `dev/A/i2t/R@1`.
        """
        if self._folder is None:
            return
        self._unwritten += json.dumps({**where, "step": step, **values}).encode() + b"\n"
        self._write_metrics()
        within = (value for value in where.values() if isinstance(value, Mapping))
        nested = {name: value for numbers in within for name, value in numbers.items()}
        event = str(where.get("event", "values"))
        found = {**dict(_numbers(nested, event)), **dict(_numbers(values))}

        def record(writer: SummaryWriter) -> None:
            for name, value in found.items():
                writer.add_scalar(name, value, step)

        self._events.record(record)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Record a TensorBoard histogram of `values` (any shape); nothing for an empty array."""
        if self._folder is not None and values.size:
            self._events.record(lambda writer: writer.add_histogram(name, values, step))

    def samples(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[str]], step: int) -> None:
        """Record a TensorBoard text: a table of plain text, in which nothing is markup."""
        if self._folder is not None:
            lines = [columns, ["---"] * len(columns), *([_as_plain(cell) for cell in row] for row in rows)]
            text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
            self._events.record(lambda writer: writer.add_text(name, text, step))

    def arrays(self, name: str, content: Mapping[str, np.ndarray]) -> None:
        """Write arrays to `divisions/{name}.npz`, whole or not at all; a file of that name is replaced."""
        if self._folder is None:
            return
        folder = self._folder / ARRAYS
        try:
            folder.mkdir(exist_ok=True)
            with whole_file(folder / f"{name}.npz") as file:
                np.savez_compressed(file, **content)  # type: ignore[arg-type]
        except (InputError, OSError) as error:
            self.say(f"  warning: {error}; training goes on without it, and a report will say that it is missing")

    def progress(self, title: str, total: int, **how: Any) -> Progress:
        """Return what shows how many of `total` pairs are done; `how`: of `Progress`."""
        return Progress(title, total, is_shown=self._folder is not None, **how)

    def size(self) -> dict[str, int]:
        """Write everything to its file; return the length of each, by its name in the folder."""
        if self._folder is None:
            return {}
        self._write_metrics()
        self._events.flush()
        return {path.relative_to(self._folder).as_posix(): path.stat().st_size for path in self._files(self._folder)}

    def close(self) -> None:
        """Flush and close the files."""
        if self._folder is not None:
            self._write_metrics()
            self._metrics.close()
            self._events.record(lambda writer: writer.close())

    @staticmethod
    def _files(folder: Path) -> list[Path]:
        return [*folder.glob(METRICS), *(folder / EVENTS).glob("*")]

    def _write_metrics(self) -> None:
        """Write all records that wait; on a full disk they go on waiting."""
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._metrics.write(self._unwritten) :]
            self._is_full = False
        except OSError as error:
            if not self._is_full:
                name = f"{self._folder}/{METRICS}"
                self.say(f"warning: {name} cannot be written: {error.strerror}; its records are kept")
            self._is_full = True


def _as_plain(cell: str) -> str:
    """Return text for a cell of a Markdown table in which nothing is markup."""
    return "".join(c if c.isalnum() or c in " .,'" else f"&#{ord(c)};" for c in " ".join(cell.split()))


def _numbers(values: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers within nested mappings, each with its path."""
    for name, value in values.items():
        path = f"{under}/{name}" if under else name
        if isinstance(value, Mapping):
            yield from _numbers(value, path)
        elif isinstance(value, (int, float)):
            yield path, value


def percent(share: float) -> str:
    """Return a share as a percentage of two figures: 0.0123 is `1.2 %`, 1 is `100 %`."""
    return f"{float(f'{100 * share:.1e}'):g} %"


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a plain-text table: first column left-aligned, numbers right-aligned with one decimal.

    Titles of columns may have several lines, so that the table stays narrow.
    """
    titles = [title.split("\n") for title in header]
    height = max(map(len, titles))
    above = [list(line) for line in zip(*([""] * (height - len(t)) + t for t in titles), strict=True)]
    cells = above + [[f"{c:.1f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(titles))]
    lines = [
        "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    lines.insert(height, "  ".join("-" * w for w in widths))
    return "\n".join(lines)
