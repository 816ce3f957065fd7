"""How robust is each method? Methods x noise ratios x seeds, one row a run, and a table of means and deviations.

    python -m benchmarks.robustness @recipes/emoji_vse.args --csv benchmarks/robustness_vse.csv --seeds 0,1,2

Every run is `run.py` with the recipe's flags and `--method`, `--noise_ratio`, `--seed` on top, in a process of its own.
Runs whose row is in the CSV are not repeated, so that an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.grid import GridConfig, Row, fill, mean_cell, number_in, run_recipe
from methods import known_methods
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, flag, from_namespace

KEYS = ("seed", "noise_ratio", "method")
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
class RobustnessConfig(GridConfig):
    """What is run."""

    methods: str = flag("baseline,ncr,bicro,mgcs", "methods, separated by commas")
    noise_ratios: str = flag("0.2,0.4,0.6", "noise ratios, separated by commas")
    csv: str = flag("benchmarks/robustness.csv", "file of results, added to and resumed from", metavar="FILE")

    def __post_init__(self) -> None:
        self.check(self.noise_ratios)
        unknown = set(self.methods.split(",")) - set(known_methods())
        if unknown:
            raise InputError(f"--methods {', '.join(sorted(unknown))} unknown; known: {', '.join(known_methods())}")

    def grid(self) -> list[tuple[str, ...]]:
        """Return (seed, noise ratio, method)."""
        return self.cells(self.noise_ratios, self.methods.split(","))


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


def run_once(cell: tuple[str, ...], arguments: Sequence[str], threads: int) -> Row:
    """Train one cell of the grid, (seed, noise ratio, method), and return its row."""
    seed, ratio, method = cell
    own = ["--method", method, "--noise_ratio", ratio, "--seed", seed]
    record, metrics = run_recipe([*arguments, *own], threads)
    division = last_division(metrics)
    final = list(record["test"])[-1]
    test, dev = record["test"][final], record["dev"][final]
    measured = record["noise"]["measured_ratio"]
    return {
        "similarity": record["similarity"],
        "method": method,
        "noise_ratio": ratio,
        "measured_ratio": None if measured is None else round(measured, 4),
        "seed": seed,
        "num_networks": record["num_networks"],
        "epoch": record["epoch_title"],
        "dev_rSum": round(dev["rSum"], 2),
        "test_rSum": round(test["rSum"], 2),
        "test_i2t_R1": round(test["i2t"]["R@1"], 2),
        "test_t2i_R1": round(test["t2i"]["R@1"], 2),
        "seconds": round(record["seconds"], 1),
        **{name: round(value, 4) for name, value in division.items()},
    }


def summary(rows: list[dict[str, str]]) -> str:
    """Return a Markdown table: test rSum of the mean of both networks and AUC of the clean probability, mean +- std."""
    for row in rows:
        if not {"similarity", "method"} <= row.keys():
            raise InputError("the CSV has no columns similarity and method; it is of another program")
        number_in(row, "noise_ratio"), number_in(row, "seed")
    ratios = sorted({row["noise_ratio"] for row in rows}, key=float)
    kinds = sorted({row["similarity"] for row in rows})
    order = ("baseline", "ncr", "bicro", "mgcs")
    methods = sorted({row["method"] for row in rows}, key=lambda m: (order.index(m) if m in order else len(order), m))

    lines = []
    for kind in kinds:
        seeds = sorted({row["seed"] for row in rows if row["similarity"] == kind}, key=float)
        lines += [f"{kind}, seeds {', '.join(seeds)}", ""]
        lines += ["| method | " + " | ".join(f"rSum at {r} | AUC at {r}" for r in ratios) + " |"]
        lines += ["|---" * (1 + 2 * len(ratios)) + "|"]
        for method in methods:
            cells = []
            for ratio in ratios:
                wanted = (kind, method, ratio)
                chosen = [r for r in rows if (r["similarity"], r["method"], r["noise_ratio"]) == wanted]
                cells += [mean_cell(chosen, "test_rSum", 1), mean_cell(chosen, "auc", 3)]
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
    work = partial(run_once, arguments=arguments, threads=config.threads)
    print(summary(fill(Path(config.csv), config.grid(), work, keys=KEYS, fields=FIELDS, jobs=config.jobs)))


if __name__ == "__main__":
    main()
