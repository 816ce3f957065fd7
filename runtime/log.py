"""The one writer of a run: lines on the terminal, metrics.jsonl, TensorBoard events, progress bars.

Nothing else in the suite prints while it trains. Progress bars appear on a terminal only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

METRICS, EVENTS = "metrics.jsonl", "tensorboard"


class Progress:
    """A tqdm bar over `total` things that counts them and shows the latest loss; silent when not on a terminal."""

    def __init__(self, title: str, total: int, line: int = 0, unit: str = "pairs") -> None:
        is_hidden = not sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=title, unit=f" {unit}", leave=False, disable=is_hidden, position=line)

    def advance(self, pairs: int, loss: float | None = None) -> None:
        """Count `pairs` more pairs as done."""
        if loss is not None:
            self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update(pairs)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


class RunLog:
    """Logs of one run in its output folder.

    Args:
        folder: the run's output folder; it must exist.
        size: go on with logs of this `size`, and forget what is behind it; None: begin anew.
    """

    def __init__(self, folder: Path, size: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        for path in self._files():
            if size is None or path.relative_to(folder).as_posix() not in size:
                path.unlink()
        for name, end in (size or {}).items():
            if (folder / name).is_file():
                os.truncate(folder / name, end)
        self._metrics = open(folder / METRICS, "a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / EVENTS))

    def say(self, text: str) -> None:
        """Print a line (or a table) for the person who waits."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def scalars(self, step: int, values: Mapping[str, Any], **where: Any) -> None:
        """Record named values: one JSON line, and each number as a TensorBoard scalar under its name."""
        self._metrics.write(json.dumps({**where, "step": step, **values}) + "\n")
        self._metrics.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._events.add_scalar(name, value, step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Record a TensorBoard histogram of `values` (any shape); nothing for an empty array."""
        if values.size:
            self._events.add_histogram(name, values, step)

    def progress(self, title: str, total: int) -> Progress:
        """Return a progress bar over `total` pairs."""
        return Progress(title, total)

    def replay(self, held: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
        """Say and record what a `HeldLog` holds."""
        for name, values, named in held:
            getattr(self, name)(*values, **named)

    def size(self) -> dict[str, int]:
        """Write everything to its file; return the length of each, by its name in the folder."""
        self._metrics.flush()
        self._events.flush()
        return {path.relative_to(self._folder).as_posix(): path.stat().st_size for path in self._files()}

    def _files(self) -> list[Path]:
        return [*self._folder.glob(METRICS), *(self._folder / EVENTS).glob("*")]

    def close(self) -> None:
        """Flush and close the files."""
        self._metrics.close()
        self._events.close()


class HeldLog:
    """Keeps what is said and recorded until it is replayed; progress bars are shown at once, on their own line."""

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

    def progress(self, title: str, total: int) -> Progress:
        """Return a progress bar over `total` pairs."""
        return Progress(title, total, self._line)


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a plain-text table: first column left-aligned, numbers right-aligned with one decimal."""
    cells = [list(header)] + [[f"{c:.1f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    lines = [
        "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)
