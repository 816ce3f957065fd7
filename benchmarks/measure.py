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

from runtime.errors import InputError
from runtime.files import write_atomically
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


Differences = Callable[[Results, Results], dict[str, float]]
"""Names and sizes of the differences between the published results and ours."""


def _say(text: str) -> None:
    print(text, flush=True)  # a long run's lines are wanted as they come


def compare(
    name: str,
    published: Callable[[], Results],
    ours: Callable[[], Results],
    *,
    repeats: int,
    device: torch.device,
    differences: Differences | None = None,
    say: Callable[[str], None] = _say,
) -> Row:
    """Do what `compare_all` does with one computation of ours."""
    found = {} if differences is None else {name: differences}
    return compare_all(published, {name: ours}, repeats=repeats, device=device, differences=found, say=say)[0]


def compare_all(
    published: Callable[[], Results],
    ours: Mapping[str, Callable[[], Results]],
    *,
    repeats: int,
    device: torch.device,
    differences: Mapping[str, Differences] | None = None,
    say: Callable[[str], None] = _say,
) -> list[Row]:
    """Run everything once to warm up and to compare the results, then `repeats` times in turn.

    Args:
        published: the formulation to compare with.
        ours: what is to be measured, by the name of its row.
        differences: by name of the row; by default relative ones of equally named results.
        say: told what came out.
    """
    reference, differences = published(), differences or {}
    found = {name: differences.get(name, relative_differences)(reference, side()) for name, side in ours.items()}
    del reference
    sides = {"": published, **ours}
    times: dict[str, list[float]] = {name: [] for name in sides}
    peaks = dict.fromkeys(sides, 0.0)
    for _ in range(repeats):
        for name, side in sides.items():
            _forget_peak(device)
            started = time.perf_counter()
            side()
            _wait(device)
            times[name].append(time.perf_counter() - started)
            peaks[name] = max(peaks[name], _peak_mib(device))
    medians = {name: statistics.median(t) for name, t in times.items()}
    rows = []
    for name in ours:
        row = Row(
            name=name,
            published_s=medians[""],
            ours_s=medians[name],
            ratio=medians[""] / medians[name],
            published_peak_mib=peaks[""],
            ours_peak_mib=peaks[name],
            max_diff=max(found[name].values()) if found[name] else None,
        )
        parts = ", ".join(f"{key} {value:.1e}" for key, value in found[name].items())
        times_of = f"{row.published_s:.3g} s -> {row.ours_s:.3g} s, {row.ratio:.2f} x"
        say(f"{name}: {times_of}" + (parts and f"; {parts}"))
        rows.append(row)
    return rows


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
