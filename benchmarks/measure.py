"""Time two computations alternately in one process, with their peak memory and how far their results lie apart."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor

from runtime.device import choose_device
from runtime.errors import InputError
from runtime.files import write_json
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


def compare(
    published: Callable[[], Results],
    ours: Mapping[str, Callable[[], Results]],
    *,
    repeats: int,
    device: torch.device,
    differences: Differences | None = None,
) -> list[Row]:
    """Run everything once to warm up and to compare the results, then `repeats` times in turn.

    Args:
        published: the formulation to compare with.
        ours: what is to be measured, by the name of its row.
        differences: by default the relative ones of equally named results.
    """
    reference = published()
    found = {name: (differences or relative_differences)(reference, side()) for name, side in ours.items()}
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
        print(f"{name}: {times_of}" + (parts and f"; {parts}"), flush=True)
        rows.append(row)
    return rows


def device_of(name: str) -> torch.device:
    """Return the device of `--device`.

    Raises:
        InputError: there is none here.
    """
    device = choose_device("0" if name == "cuda" else "cpu")
    if device.type != name:
        raise InputError(f"--device {name!r}: there is none here; known: cpu, cuda")
    return device


def relative_differences(published: Results, ours: Results) -> dict[str, float]:
    """Return |a - b| / |a| of every named result."""
    assert published.keys() == ours.keys()
    return {name: relative_difference(published[name], ours[name]) for name in published}


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |a|, Euclidean norms."""
    assert a.shape == b.shape
    a, b = a.double().flatten(), b.double().flatten()
    return float((a - b).norm() / a.norm().clamp(min=1e-300))


def tell(rows: Sequence[Row], path: str | None) -> None:
    """Print the rows as a table and, where a path is given, write them as a JSON list."""
    header = ["", "published s", "ours s", "ratio", "published MiB", "ours MiB", "difference"]
    digits = (".4g", ".4g", ".2f", ".0f", ".0f", ".1e")
    cells = [
        [row.name, *("-" if v is None else format(v, d) for v, d in zip(astuple(row)[1:], digits, strict=True))]
        for row in rows
    ]
    print(table(header, cells))
    if path is not None:
        write_json(Path(path), [asdict(row) for row in rows])


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
