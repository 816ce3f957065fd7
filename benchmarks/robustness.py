"""How robust is each method? Rows x noise ratios x seeds, a run and a line of a CSV each, and tables of means.

    python -m benchmarks.robustness @recipes/emoji_vse.args --csv benchmarks/robustness_vse.csv --seeds 0,1,2
    python -m benchmarks.robustness @recipes/emoji_vse.args --csv x.csv --rows "baseline; mgcs; mgcs --loss bounded"

A row is a method, and flags of `run.py` behind it: what a part of a method is worth is asked by rows with and without
it. Every run is `run.py` with the recipe's flags, the row's, `--noise_ratio` and `--seed`, in a process of its own.
Runs whose line is in the CSV are not repeated, so that an interrupted benchmark goes on where it was. Rows with
`--remove_noise` are ceilings: trained without the mismatched pairs, by truth. What lies between the first row and the
higher ceiling is the gap, of which other rows close a part. All choices are to be made by the dev column.
"""

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
from functools import partial
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from training.config import parse_args

REPOSITORY = Path(__file__).resolve().parent.parent
KEYS = ("seed", "noise_ratio", "row")
FIRST = ("residual_noise", "mode_separation")
LAST = ("auc", "recall", *FIRST, "offers")
"""Figures of the first and of the last division, means over the networks."""
FIELDS = (
    *(*KEYS, "similarity", "num_networks", "measured_ratio", "epoch"),
    *("dev_rSum", "test_rSum", "test_i2t_R1", "test_t2i_R1"),
    *(*(f"first_{name}" for name in FIRST), *LAST, "seconds"),
)
COLUMNS: dict[str, tuple[str, int, bool]] = {
    "dev rSum": ("dev_rSum", 1, True),
    "test rSum": ("test_rSum", 1, True),
    "AUC": ("auc", 3, False),
    "recall": ("recall", 3, False),
    "residual noise, first": ("first_residual_noise", 3, False),
    "residual noise, last": ("residual_noise", 3, False),
    "d', first": ("first_mode_separation", 2, False),
    "d', last": ("mode_separation", 2, False),
    "rematched": ("offers", 3, False),
}
"""Columns of a table: field, digits, and whether its spread over seeds is shown. Those without a value are left out."""

CEILING = "--remove_noise"
Row = dict[str, Any]
Cell = tuple[str, str, str]
"""Seed, noise ratio and row of a run."""


@dataclass(frozen=True)
class RobustnessConfig:
    """What is run."""

    rows: str = flag("baseline;ncr;bicro;mgcs;consensus", "methods with flags behind them, separated by semicolons")
    noise_ratios: str = flag("0.2,0.4,0.6", "noise ratios, separated by commas")
    seeds: str = flag("0", "seeds, separated by commas")
    csv: str = flag("benchmarks/robustness.csv", "file of results, added to and resumed from", metavar="FILE")
    jobs: int = flag(2, "runs at the same time")
    threads: int = flag(1, "processor threads of each run")

    def __post_init__(self) -> None:
        check_range(self, "jobs", low=1)
        check_range(self, "threads", low=1)
        if not all(self.row_names()):
            raise InputError(f"--rows {self.rows!r} has an empty row; a row is a method, and flags behind it")
        try:
            self.grid()
        except ValueError as error:
            raise InputError(f"--noise_ratios and --seeds are numbers separated by commas: {error}") from None

    def row_names(self) -> list[str]:
        """Return the rows, with single spaces, each once."""
        return list(dict.fromkeys(" ".join(row.split()) for row in self.rows.split(";")))

    def grid(self) -> list[Cell]:
        """Return the runs, seed by seed, so that a part of the grid is a fair table already."""
        ratios = [f"{float(r):g}" for r in self.noise_ratios.split(",")]
        return list(product([str(int(s)) for s in self.seeds.split(",")], ratios, self.row_names()))


def arguments_of(cell: Cell, common: Sequence[str]) -> list[str]:
    """Return run.py's arguments for a run."""
    seed, ratio, row = cell
    return [*common, "--method", *row.split(), "--noise_ratio", ratio, "--seed", seed]


def run_recipe(arguments: Sequence[str], threads: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run `run.py` in its own process; return its results.json and the records of its metrics.jsonl.

    Raises:
        InputError: the run failed; carries its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(REPOSITORY / "run.py"), *arguments, "--output_dir", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise InputError(f"run.py {' '.join(arguments)} failed: {last}")
        (results,) = Path(folder).glob("*/results.json")
        metrics = (results.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return json.loads(results.read_text(encoding="utf-8")), [json.loads(line) for line in metrics]


def division_figures(metrics: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of the first and the last division that all networks have; none without a division."""
    first: dict[str, dict[str, float]] = {}
    last: dict[str, dict[str, float]] = {}
    for record in metrics:
        if record["event"] == "division":
            prefix = f"division/{record['network']}/"
            found = {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix) and v is not None}
            first.setdefault(record["network"], found)
            last[record["network"]] = found
    wanted = [(f"first_{name}", name, first) for name in FIRST] + [(name, name, last) for name in LAST]
    return {
        field: round(float(np.mean([d[name] for d in by_network.values()])), 4)
        for field, name, by_network in wanted
        if by_network and all(name in d for d in by_network.values())
    }


def run_once(cell: Cell, common: Sequence[str], threads: int) -> Row:
    """Train one cell of the grid and return its line of the CSV."""
    record, metrics = run_recipe(arguments_of(cell, common), threads)
    final = list(record["test"])[-1]
    test, dev, measured = record["test"][final], record["dev"][final], record["noise"]["measured_ratio"]
    return {
        **dict(zip(KEYS, cell, strict=True)),
        "similarity": record["similarity"],
        "num_networks": record["num_networks"],
        "measured_ratio": None if measured is None else round(measured, 4),
        "epoch": record["epoch_title"],
        "dev_rSum": round(dev["rSum"], 2),
        "test_rSum": round(test["rSum"], 2),
        "test_i2t_R1": round(test["i2t"]["R@1"], 2),
        "test_t2i_R1": round(test["t2i"]["R@1"], 2),
        **division_figures(metrics),
        "seconds": round(record["seconds"], 1),
    }


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the lines of the CSV, none if there is no such file.

    Raises:
        InputError: it is no CSV of this program, or a line has more or fewer cells than the header.
    """
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, fields = list(reader), tuple(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV: {error}; mend it, or name another file") from None
    if fields != FIELDS:
        raise InputError(f"{path} has other columns than this program writes; name another file")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise InputError(f"{path} row {number} has more or fewer cells than the header; mend it, or drop the row")
    return rows


def fill(path: Path, cells: Iterable[Cell], work: Callable[[Cell], Row], jobs: int) -> list[dict[str, str]]:
    """Do the cells that have no line yet, `jobs` at a time; print each line's values and return the cells' lines."""
    cells, lock = list(cells), Lock()
    done = {tuple(row[key] for key in KEYS) for row in read_rows(path)}
    wanted = [cell for cell in cells if cell not in done]

    def do(cell: Cell) -> None:
        row = work(cell)
        with lock:
            is_new = not path.is_file()
            with open(path, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerow(row)
            print(", ".join(f"{name} {row[name]}" for name in FIELDS if row.get(name) is not None), flush=True)

    print(f"{len(wanted)} runs to do, {len(done)} lines in {path}", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(do, wanted))
    return [row for row in read_rows(path) if tuple(row[key] for key in KEYS) in cells]


def number_in(row: Row, name: str) -> float:
    """Return a cell as a number.

    Raises:
        InputError: it holds no finite number.
    """
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"a row of the CSV has {row[name]!r} as its {name}, which is no number; mend or drop it")
    return value


def mean_cell(rows: Iterable[Row], name: str, digits: int, spread: bool) -> str:
    """Return the mean of a column, with its standard deviation from two values on; "-" without a value."""
    values = [number_in(row, name) for row in rows if row[name]]
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if spread and len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return a table, its header first, and an empty line."""
    return ["| " + " | ".join(line) + " |" for line in (lines[0], ["---"] * len(lines[0]), *lines[1:])] + [""]


def _details(of_row: dict[str, list[Row]]) -> list[str]:
    """Return a table of one similarity and noise ratio: every figure, and the share of the gap that a row closes."""
    mean = {name: float(np.mean([number_in(row, "test_rSum") for row in own])) for name, own in of_row.items()}
    low = next(iter(mean.values()))
    high = max((mean[name] for name in mean if CEILING in name.split()), default=low)
    dev, test, *others = COLUMNS
    lines = [["", "networks", dev, test, "over the first", "gap closed", *others]]
    for name, own in of_row.items():
        closed = f"{(mean[name] - low) / (high - low):.0%}" if high > low else "-"
        networks = ", ".join(sorted({row["num_networks"] for row in own} - {""})) or "-"
        figures = [mean_cell(own, *column) for column in COLUMNS.values()]
        lines.append([name, networks, *figures[:2], f"{mean[name] - low:+.1f}", closed, *figures[2:]])
    shown = [k for k in range(len(lines[0])) if k == 0 or any(line[k] != "-" for line in lines[1:])]
    return _markdown([[line[k] for k in shown] for line in lines])


def summary(rows: list[dict[str, str]], names: Sequence[str]) -> str:
    """Return Markdown tables for each similarity: test rSum and AUC by noise ratio, then every figure of each ratio.

    Args:
        rows: lines of the CSV.
        names: the rows of the tables, in order.
    """
    lines: list[str] = []
    for row in rows:
        number_in(row, "noise_ratio"), number_in(row, "seed")
    for kind in sorted({row["similarity"] for row in rows}):
        here = [row for row in rows if row["similarity"] == kind]
        ratios, seeds = (sorted({row[key] for row in here}, key=float) for key in ("noise_ratio", "seed"))
        found: dict[str, dict[str, list[Row]]] = {ratio: {} for ratio in ratios}
        for name, row in product(names, here):
            if row["row"] == name:
                found[row["noise_ratio"]].setdefault(name, []).append(row)
        table = [["", *(f"{what} at {ratio}" for ratio in ratios for what in ("rSum", "AUC"))]]
        for name in names:
            own = [found[ratio].get(name, []) for ratio in ratios]
            cells = [(mean_cell(rows, "test_rSum", 1, True), mean_cell(rows, "auc", 3, True)) for rows in own]
            table += [[name, *(cell for pair in cells for cell in pair)]] if any(own) else []
        lines += [f"{kind}, seeds {', '.join(seeds)}", "", *_markdown(table)]
        for ratio in ratios:
            lines += [f"{kind}, noise {ratio}", "", *_details(found[ratio])]
    return "\n".join(lines)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing from the CSV, then print the tables."""
    parser = OneLineParser(prog="python -m benchmarks.robustness", description="Rows x noise ratios x seeds.")
    add_flags(parser, "benchmark", RobustnessConfig)
    namespace, common = parser.parse_known_args(argv)
    config = from_namespace(RobustnessConfig, namespace)
    cells = config.grid()
    for cell in cells:
        parse_args(arguments_of(cell, common))  # a wrong flag is told before the first run
    work = partial(run_once, common=common, threads=config.threads)
    print(summary(fill(Path(config.csv), cells, work, config.jobs), config.row_names()))


if __name__ == "__main__":
    main()
