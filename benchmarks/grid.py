"""Runs of `run.py` over a grid, one CSV row each; what has its row already is not run again."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from runtime.errors import InputError
from runtime.flags import check_range, flag

REPOSITORY = Path(__file__).resolve().parent.parent
Row = dict[str, Any]


@dataclass(frozen=True)
class GridConfig:
    """Flags of a grid whose runs differ in their noise ratio and seed."""

    seeds: str = flag("0", "seeds, separated by commas")
    jobs: int = flag(2, "runs at the same time")
    threads: int = flag(1, "processor threads of each run")

    def check(self, noise_ratios: str) -> None:
        """Raise `InputError` for a value that is not allowed."""
        check_range(self, "jobs", low=1)
        check_range(self, "threads", low=1)
        try:
            [float(r) for r in noise_ratios.split(",")], [int(s) for s in self.seeds.split(",")]
        except ValueError as error:
            raise InputError(f"--noise_ratios and --seeds are numbers separated by commas: {error}") from None

    def cells(self, noise_ratios: str, rows: Sequence[str]) -> list[tuple[str, ...]]:
        """Return (seed, noise ratio, row), seed by seed, so that a part of the grid is a fair table already."""
        ratios = [f"{float(r):g}" for r in noise_ratios.split(",")]
        seeds = [str(int(s)) for s in self.seeds.split(",")]
        return list(product(seeds, ratios, rows))


def run_recipe(
    arguments: Sequence[str], threads: int, *, output: Path | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run `run.py` in its own process; return its results.json and the records of its metrics.jsonl.

    Args:
        arguments: of run.py.
        threads: of a processor.
        output: where the run's folder is left; None: it is dropped.

    Raises:
        InputError: the run failed; carries its last line.
    """
    with tempfile.TemporaryDirectory() as dropped:
        folder = dropped if output is None else str(output)
        command = [sys.executable, str(REPOSITORY / "run.py"), *arguments, "--output_dir", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise InputError(f"run.py {' '.join(arguments)} failed: {last}")
        (results,) = Path(folder).glob("*/results.json")
        metrics = (results.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return json.loads(results.read_text(encoding="utf-8")), [json.loads(line) for line in metrics]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of the CSV, none if there is no such file.

    Raises:
        InputError: it is no CSV, or a row has more or fewer cells than the header.
    """
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV: {error}; mend it, or name another file") from None
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise InputError(f"{path} row {number} has more or fewer cells than the header; mend it, or drop the row")
    return rows


def number_in(row: Row, name: str) -> float:
    """Return a cell as a number.

    Raises:
        InputError: there is no such cell, or it holds no finite number.
    """
    try:
        value = float(row[name])
    except (KeyError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"a row of the CSV has {row.get(name)!r} as its {name}, which is no number; mend or drop it")
    return value


def append_row(path: Path, row: Row, fields: Sequence[str]) -> None:
    """Add a row of `fields`, with the header if the file is new."""
    is_new = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def fill(
    path: Path,
    cells: Iterable[tuple[str, ...]],
    work: Callable[[tuple[str, ...]], Row],
    *,
    keys: Sequence[str],
    fields: Sequence[str],
    jobs: int,
) -> list[dict[str, str]]:
    """Do the cells that have no row yet, `jobs` at a time; print each row's values and return all rows.

    Args:
        path: the CSV, added to.
        cells: what is wanted, as values of `keys`.
        work: does one cell and returns its row, or raises.
        keys: columns that tell rows apart.
        fields: all columns.
        jobs: runs at the same time.
    """
    done = {tuple(row[key] for key in keys) for row in read_rows(path)}
    wanted = [cell for cell in cells if cell not in done]
    lock = Lock()

    def do(cell: tuple[str, ...]) -> None:
        row = work(cell)
        with lock:
            append_row(path, row, fields)
            print(", ".join(f"{name} {row[name]}" for name in fields if row.get(name) is not None), flush=True)

    print(f"{len(wanted)} runs to do, {len(done)} rows in {path}", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(do, wanted))
    return read_rows(path)


def mean_cell(rows: Iterable[dict[str, str]], name: str, digits: int, *, spread: bool = True) -> str:
    """Return the mean of a column, with its standard deviation from two values on; "-" without a value."""
    values = [number_in(row, name) for row in rows if row.get(name)]
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if spread and len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"
