"""The one writer of a run: lines on the terminal, metrics.jsonl, TensorBoard events, arrays, progress.

Nothing else in the suite prints while it trains. On a full disk training goes
on: records of metrics.jsonl are kept and written when there is room, what else cannot be written is left out.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.checkpoint import whole_file
from runtime.errors import InputError
from runtime.events import Events
from runtime.progress import Progress, say

METRICS, EVENTS, ARRAYS = "metrics.jsonl", "tensorboard", "divisions"


class RunLog:
    """Logs of one run in its output folder.

    Args:
        folder: the run's output folder; it must exist.
        size: go on with logs of this `size`, and forget what is behind it; None: begin anew.
    """

    def __init__(self, folder: Path, size: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        for path in self._files():  # not the names in `size`, which a file that was tampered with can lead anywhere
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
        self._events = Events(folder / EVENTS, self.say, is_new=size is None)

    def say(self, text: str) -> None:
        """Print a line (or a table) for the person who waits."""
        say(text)

    def at_once(self, text: str) -> None:
        """Print a line now, also where others are kept for later."""
        say(text)

    def scalars(self, step: int, values: Mapping[str, Any], **where: Any) -> None:
        """Record named values: one JSON line, and each number as a TensorBoard scalar under its name.

        Numbers within mappings of `where` become scalars too, under the event's name: `dev/A/i2t/R@1`.
        """
        self._unwritten += json.dumps({**where, "step": step, **values}).encode() + b"\n"
        self._write_metrics()
        within = (value for value in where.values() if isinstance(value, Mapping))
        nested = {name: value for numbers in within for name, value in numbers.items()}
        event = str(where.get("event", "values"))
        self._events.scalars({**dict(_numbers(nested, event)), **dict(_numbers(values))}, step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Record a TensorBoard histogram of `values` (any shape); nothing for an empty array."""
        self._events.histogram(name, values, step)

    def samples(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[str]], step: int) -> None:
        """Record a TensorBoard text: a table of plain text, in which nothing is markup."""
        self._events.samples(name, columns, rows, step)

    def settings(self, settings: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """Record the run's row of TensorBoard's table of hyper-parameters beside the scalars named `metrics`."""
        self._events.settings(settings, metrics)

    def arrays(self, name: str, content: Mapping[str, np.ndarray]) -> None:
        """Write arrays to `divisions/{name}.npz`, whole or not at all; a file of that name is replaced."""
        folder = self._folder / ARRAYS
        try:
            folder.mkdir(exist_ok=True)
            with whole_file(folder / f"{name}.npz") as file:
                np.savez_compressed(file, **content)  # type: ignore[arg-type]
        except (InputError, OSError) as error:
            self.say(f"  warning: {error}; training goes on without it, and a report will say that it is missing")

    def progress(self, title: str, total: int, **how: Any) -> Progress:
        """Return what shows how many of `total` pairs are done; `how`: of `Progress`."""
        return Progress(title, total, **how)

    def replay(self, held: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
        """Say and record what a `HeldLog` holds."""
        for name, values, named in held:
            getattr(self, name)(*values, **named)

    def size(self) -> dict[str, int]:
        """Write everything to its file; return the length of each, by its name in the folder."""
        self._write_metrics()
        self._events.flush()
        return {path.relative_to(self._folder).as_posix(): path.stat().st_size for path in self._files()}

    def close(self) -> None:
        """Flush and close the files."""
        self._write_metrics()
        self._metrics.close()
        self._events.close()

    def _files(self) -> list[Path]:
        return [*self._folder.glob(METRICS), *(self._folder / EVENTS).glob("*")]

    def _write_metrics(self) -> None:
        """Write all records that wait; on a full disk they go on waiting."""
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._metrics.write(self._unwritten) :]
            self._is_full = False
        except OSError as error:
            if not self._is_full:
                self.say(f"warning: {self._folder / METRICS} cannot be written: {error.strerror}; its records are kept")
            self._is_full = True


def _numbers(values: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers within nested mappings, each with its path."""
    for name, value in values.items():
        path = f"{under}/{name}" if under else name
        if isinstance(value, Mapping):
            yield from _numbers(value, path)
        elif isinstance(value, (int, float)):
            yield path, value


class SilentLog(RunLog):
    """Says and records nothing: of several processes of a run one speaks for all."""

    def __init__(self) -> None:
        self._folder = Path()

    def say(self, text: str) -> None:
        pass

    def scalars(self, step: int, values: Mapping[str, Any], **where: Any) -> None:
        pass

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        pass

    def samples(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[str]], step: int) -> None:
        pass

    def settings(self, settings: Mapping[str, Any], metrics: Iterable[str]) -> None:
        pass

    def arrays(self, name: str, content: Mapping[str, np.ndarray]) -> None:
        pass

    def at_once(self, text: str) -> None:
        pass

    def progress(self, title: str, total: int, **how: Any) -> Progress:
        return Progress(title, total, is_shown=False)

    def size(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


class HeldLog:
    """Keeps what is said and recorded until it is replayed; progress is shown at once, on its own line."""

    def __init__(self, line: int) -> None:
        self.held: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._line = line

    def say(self, text: str) -> None:
        """Keep a line."""
        self.held.append(("say", (text,), {}))

    def scalars(self, step: int, values: Mapping[str, Any], **where: Any) -> None:
        """Keep a record."""
        self.held.append(("scalars", (step, values), where))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Keep a histogram."""
        self.held.append(("histogram", (name, values, step), {}))

    def at_once(self, text: str) -> None:
        """Print a line now, if this is the first of those at work."""
        if self._line == 0:
            say(text)

    def progress(self, title: str, total: int, **how: Any) -> Progress:
        """Return what shows how many of `total` pairs are done; `how`: of `Progress`."""
        return Progress(title, total, self._line, **how)


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
