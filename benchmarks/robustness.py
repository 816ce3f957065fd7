"""How robust is each method? Methods x noise ratios x seeds, one row a run, and a table of means and deviations.

    python -m benchmarks.robustness @recipes/emoji_vse.args --csv benchmarks/robustness_vse.csv --seeds 0,1,2

Every run is `run.py` with the recipe's flags and `--method`, `--noise_ratio`, `--seed` on top, in a process of its own.
Runs whose row is in the CSV are not repeated, so that an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from methods import known_methods
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from runtime.log import table

REPOSITORY = Path(__file__).resolve().parent.parent
FIELDS = (
    "similarity",
    "method",
    "noise_ratio",
    "measured_ratio",
    "seed",
    "num_networks",
    "epoch",
    "dev_rSum",
    "test_rSum",
    "test_i2t_R1",
    "test_t2i_R1",
    "auc",
    "residual_noise",
    "seconds",
)


@dataclass(frozen=True)
class RobustnessConfig:
    """What is run."""

    methods: str = flag("baseline,ncr,bicro,mgcs", "methods, separated by commas")
    noise_ratios: str = flag("0.2,0.4,0.6", "noise ratios, separated by commas")
    seeds: str = flag("0", "seeds, separated by commas")
    csv: str = flag("benchmarks/robustness.csv", "file of results, added to and resumed from")
    jobs: int = flag(2, "runs at the same time")
    threads: int = flag(1, "processor threads of each run")

    def __post_init__(self) -> None:
        check_range(self, "jobs", low=1)
        check_range(self, "threads", low=1)
        unknown = set(self.methods.split(",")) - set(known_methods())
        if unknown:
            raise InputError(f"--methods {', '.join(sorted(unknown))} unknown; known: {', '.join(known_methods())}")
        try:
            [float(r) for r in self.noise_ratios.split(",")], [int(s) for s in self.seeds.split(",")]
        except ValueError as error:
            raise InputError(f"--noise_ratios and --seeds are numbers separated by commas: {error}") from None

    def grid(self) -> list[tuple[int, str, str]]:
        """Return (seed, noise ratio, method), seed by seed, so that a part of the grid is a fair table already."""
        ratios = [f"{float(r):g}" for r in self.noise_ratios.split(",")]
        return list(product([int(s) for s in self.seeds.split(",")], ratios, self.methods.split(",")))


def last_division(metrics: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean over both networks of the last division's AUC and residual noise; nothing without a division."""
    last: dict[str, dict[str, float]] = {}
    for record in metrics:
        if record["event"] == "division":
            prefix = f"division/{record['network']}/"
            last[record["network"]] = {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)}
    names = ("auc", "residual_noise")
    return {
        n: float(np.mean([d[n] for d in last.values()])) for n in names if last and all(n in d for d in last.values())
    }


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
            raise InputError(f"run.py {' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1]}")
        (results,) = Path(folder).glob("*/results.json")
        metrics = (results.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return json.loads(results.read_text(encoding="utf-8")), [json.loads(line) for line in metrics]


def run_once(method: str, ratio: str, seed: int, arguments: Sequence[str], threads: int) -> dict[str, object]:
    """Train one cell of the grid and return its row."""
    own = ["--method", method, "--noise_ratio", ratio, "--seed", str(seed)]
    record, metrics = run_recipe([*arguments, *own], threads)
    division = last_division(metrics)
    final = list(record["test"])[-1]
    test, dev = record["test"][final], record["dev"][final]
    return {
        "similarity": record["similarity"],
        "method": method,
        "noise_ratio": ratio,
        "measured_ratio": round(record["noise"]["measured_ratio"], 4),
        "seed": seed,
        "num_networks": record["num_networks"],
        "epoch": record["epoch"],
        "dev_rSum": round(dev["rSum"], 2),
        "test_rSum": round(test["rSum"], 2),
        "test_i2t_R1": round(test["i2t"]["R@1"], 2),
        "test_t2i_R1": round(test["t2i"]["R@1"], 2),
        "seconds": round(record["seconds"], 1),
        **{name: round(value, 4) for name, value in division.items()},
    }


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of the CSV, none if there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_row(path: Path, row: dict[str, Any], fields: Sequence[str] = FIELDS) -> None:
    """Add a row of `fields`, with the header if the file is new."""
    is_new = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def summary(rows: list[dict[str, str]]) -> str:
    """Return a Markdown table: test rSum of the mean of both networks and AUC of the clean probability, mean +- std."""
    ratios = sorted({row["noise_ratio"] for row in rows}, key=float)
    kinds = sorted({row["similarity"] for row in rows})
    order = ("baseline", "ncr", "bicro", "mgcs")
    methods = sorted({row["method"] for row in rows}, key=lambda m: (order.index(m) if m in order else len(order), m))

    def cell(chosen: list[dict[str, str]], name: str, digits: int) -> str:
        values = [float(row[name]) for row in chosen if row[name]]
        if not values:
            return "-"
        spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits}f}{spread}"

    lines = []
    for kind in kinds:
        seeds = sorted({row["seed"] for row in rows if row["similarity"] == kind}, key=int)
        lines += [f"{kind}, seeds {', '.join(seeds)}", ""]
        lines += ["| method | " + " | ".join(f"rSum at {r} | AUC at {r}" for r in ratios) + " |"]
        lines += ["|---" * (1 + 2 * len(ratios)) + "|"]
        for method in methods:
            cells = []
            for ratio in ratios:
                wanted = (kind, method, ratio)
                chosen = [r for r in rows if (r["similarity"], r["method"], r["noise_ratio"]) == wanted]
                cells += [cell(chosen, "test_rSum", 1), cell(chosen, "auc", 3)]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing from the CSV, then print the table."""
    parser = OneLineParser(prog="python -m benchmarks.robustness", description="Methods x noise ratios x seeds.")
    add_flags(parser, "benchmark", RobustnessConfig)
    namespace, arguments = parser.parse_known_args(argv)
    config = from_namespace(RobustnessConfig, namespace)
    path = Path(config.csv)
    done = {(row["method"], row["noise_ratio"], row["seed"]) for row in read_rows(path)}
    wanted = [cell for cell in config.grid() if (cell[2], cell[1], str(cell[0])) not in done]
    lock = Lock()

    def work(cell: tuple[int, str, str]) -> None:
        seed, ratio, method = cell
        row = run_once(method, ratio, seed, arguments, config.threads)
        with lock:
            append_row(path, row)
            shown = [
                row["similarity"],
                method,
                ratio,
                f"s{seed}",
                row["test_rSum"],
                row.get("auc", "-"),
                row["seconds"],
            ]
            print(table(("similarity", "method", "noise", "seed", "test rSum", "AUC", "s"), [shown]).splitlines()[-1])

    print(f"{len(wanted)} runs to do, {len(done)} rows in {path}", flush=True)
    with ThreadPoolExecutor(config.jobs) as pool:
        list(pool.map(work, wanted))
    print(summary(read_rows(path)))


if __name__ == "__main__":
    main()
