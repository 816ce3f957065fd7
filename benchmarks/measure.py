"""Time two computations alternately in one process, with their peak memory and how far their results lie apart."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from runtime.checkpoint import write_atomically
from runtime.errors import InputError
from runtime.log import table

Results = Mapping[str, Tensor]
"""What a computation returns: named tensors that the other must return too."""


@dataclass(frozen=True)
class Row:
    """One comparison: medians in seconds, peaks in MiB of the whole process (of the GPU with CUDA).

    `max_diff` is the largest relative difference of the named results: |a - b| / |a|, Euclidean norms; None where the
    two are not meant to agree.
    """

    name: str
    published_s: float
    ours_s: float
    ratio: float
    published_peak_mib: float
    ours_peak_mib: float
    max_diff: float | None


def compare(
    name: str,
    published: Callable[[], Results],
    ours: Callable[[], Results],
    *,
    repeats: int,
    device: torch.device,
    differences: Callable[[Results, Results], dict[str, float]] | None = None,
    say: Callable[[str], None] = print,
) -> Row:
    """Run both once to warm up and to compare their results, then `repeats` times in turn.

    Args:
        published: the formulation to compare with.
        ours: the one to be measured.
        differences: names and sizes of the differences; by default relative ones of equally named results.
        say: told what is being done.
    """
    sides = (published, ours)
    first = [side() for side in sides]
    found = (differences or relative_differences)(*first)
    del first
    times: list[list[float]] = [[], []]
    peaks = [0.0, 0.0]
    for _ in range(repeats):
        for k, side in enumerate(sides):
            _forget_peak(device)
            started = time.perf_counter()
            side()
            _wait(device)
            times[k].append(time.perf_counter() - started)
            peaks[k] = max(peaks[k], _peak_mib(device))
    medians = [statistics.median(t) for t in times]
    parts = ", ".join(f"{key} {value:.1e}" for key, value in found.items())
    say(f"{name}: {medians[0]:.3g} s -> {medians[1]:.3g} s, {medians[0] / medians[1]:.2f} x" + (parts and f"; {parts}"))
    return Row(
        name=name,
        published_s=medians[0],
        ours_s=medians[1],
        ratio=medians[0] / medians[1],
        published_peak_mib=peaks[0],
        ours_peak_mib=peaks[1],
        max_diff=max(found.values()) if found else None,
    )


def relative_differences(published: Results, ours: Results) -> dict[str, float]:
    """Return |a - b| / |a| of every named result."""
    assert published.keys() == ours.keys()
    return {name: relative_difference(published[name], ours[name]) for name in published}


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |a|, Euclidean norms."""
    assert a.shape == b.shape
    a, b = a.double().flatten(), b.double().flatten()
    return float((a - b).norm() / a.norm().clamp(min=1e-300))


def result_rows(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    header = ["", "published s", "ours s", "ratio", "published MiB", "ours MiB", "difference"]
    cells = [
        [
            row.name,
            f"{row.published_s:.4g}",
            f"{row.ours_s:.4g}",
            f"{row.ratio:.2f}",
            f"{row.published_peak_mib:.0f}",
            f"{row.ours_peak_mib:.0f}",
            "-" if row.max_diff is None else f"{row.max_diff:.1e}",
        ]
        for row in rows
    ]
    return table(header, cells)


def write_rows(path: str, rows: Sequence[Row]) -> None:
    """Write the rows as a JSON list.

    Raises:
        InputError: the folder is not there.
    """
    check_target(path)
    write_atomically(Path(path), json.dumps([asdict(row) for row in rows], indent=1).encode())


def check_target(path: str | None) -> None:
    """Raise `InputError` now, and not after the measurement, if a file cannot be written there."""
    if path is not None and (Path(path).is_dir() or not Path(path).resolve().parent.is_dir()):
        raise InputError(f"--json {path} cannot be written: it is a folder, or its folder does not exist")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    """Give freed memory back and start a new peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak is then that of the whole run: never too low


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
