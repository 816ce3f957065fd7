"""TensorBoard events of a run: scalars in named groups, histograms, texts, the table of hyper-parameters.

On a full disk events are lost, with a warning, until the next `flush`: metrics.jsonl holds every number too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

GROUPS = {
    "training": {
        "loss": ["Multiline", [r"^loss/"]],
        "learning rate": ["Multiline", ["^learning_rate$"]],
    },
    "dev": {
        "rSum": ["Multiline", [r"^dev/[^/]+/rSum$"]],
        **{f"{way} R@{k}": ["Multiline", [rf"^dev/[^/]+/{way}/R@{k}$"]] for way in ("i2t", "t2i") for k in (1, 5, 10)},
    },
    "division": {
        "clean side": ["Multiline", [r"^division/[^/]+/(share_clean|precision|recall|residual_noise)$"]],
        "area under the ROC curve": ["Multiline", [r"^division/[^/]+/auc"]],
        "modality gap": ["Multiline", [r"^division/[^/]+/modality_gap$"]],
    },
}
"""TensorBoard's Custom Scalars: group -> chart -> the scalars in it, by pattern."""


class Events:
    """The event file of a run.

    Args:
        folder: where it is, or will be.
        warn: told in one line what could not be written.
        is_new: nothing is there yet: the groups are written first.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None], *, is_new: bool) -> None:
        self._folder, self._warn = folder, warn
        self._writer: SummaryWriter | None = None
        _leave_out_tracebacks()
        self._open()
        if is_new:
            self._record(lambda writer: writer.add_custom_scalars(GROUPS))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record named numbers."""

        def record(writer: SummaryWriter) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        self._record(record)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Record a histogram of `values` (any shape); nothing for an empty array."""
        if values.size:
            self._record(lambda writer: writer.add_histogram(name, values, step))

    def samples(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[str]], step: int) -> None:
        """Record a table of plain text, in which nothing is markup."""
        lines = [columns, ["---"] * len(columns), *([_as_plain(cell) for cell in row] for row in rows)]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        self._record(lambda writer: writer.add_text(name, text, step))

    def settings(self, settings: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """Record the run's row of the table of hyper-parameters, in this run and not in a folder of its own.

        Args:
            settings: names to plain values; those unset (None) are left out.
            metrics: names of the scalars that stand beside them, recorded elsewhere.
        """
        told = {name: value for name, value in settings.items() if value is not None}

        from torch.utils.tensorboard.summary import hparams  # here: it takes long to load

        def record(writer: SummaryWriter) -> None:
            experiment, start, _ = hparams(told, dict.fromkeys(metrics, 0.0))
            for summary in (experiment, start):
                writer._get_file_writer().add_summary(summary)

        self._record(record)

    def flush(self) -> None:
        """Write everything to the file; after a fault begin another one."""
        if self._writer is None:
            self._open()
        self._record(lambda writer: writer.flush())

    def close(self) -> None:
        """Flush and close the file."""
        self._record(lambda writer: writer.close())

    def _open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here: it takes long to load

        try:
            self._writer = SummaryWriter(str(self._folder))
        except OSError as error:
            self._told(error)

    def _record(self, record: Callable[[SummaryWriter], None]) -> None:
        if self._writer is None:
            return
        try:
            record(self._writer)
        except OSError as error:
            self._writer = None  # its thread has ended
            self._told(error)

    def _told(self, error: OSError) -> None:
        why = error.strerror or error
        self._warn(f"warning: {self._folder} cannot be written: {why}; its events are lost until the next save")


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


def _as_plain(cell: str) -> str:
    """Return text for a cell of a Markdown table in which nothing is markup."""
    text = " ".join(cell.split())
    return "".join(c if c.isalnum() or c in " .,'" else f"&#{ord(c)};" for c in text)
