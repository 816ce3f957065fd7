"""DSDMR on the embedded data: its ablation, its margins, and other methods with one network each.

    python -m benchmarks.dsdmr @recipes/emoji_vse.args --csv benchmarks/dsdmr_vse.csv --seeds 0,1,2

Every row is one network with the recipe's flags. The paper's ablation (its Table 5, CLIP on MS-COCO) asks for the order
full > without GMM > without its loss > triplet; its Figure 4 asks whether the modes move further apart with the dynamic
margin. Runs whose row is in the CSV are not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from benchmarks.robustness import append_row, read_rows, run_recipe
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace

PLAIN_MARGIN = "0.2"
ROWS = {
    "dsdmr": ("--method", "dsdmr"),
    "fixed_margins": ("--method", "dsdmr", "--margin_policy", "fixed"),
    "posterior_margins": ("--method", "dsdmr", "--margin_policy", "posterior"),
    "gap_margins": ("--method", "dsdmr", "--margin_policy", "gap"),
    "cumulative_pool": ("--method", "dsdmr", "--filter_pool", "cumulative"),
    "without_gmm": ("--method", "dsdmr", "--no_filter"),
    "without_its_loss": (
        *("--method", "dsdmr", "--margin_policy", "fixed"),
        *("--image_margin", PLAIN_MARGIN, "--text_margin", PLAIN_MARGIN),
    ),
    "triplet": ("--method", "baseline", "--margin", PLAIN_MARGIN, "--no_co_training"),
    "ncr": ("--method", "ncr", "--no_co_training"),
    "bicro": ("--method", "bicro", "--no_co_training"),
    "mgcs": ("--method", "mgcs", "--no_co_training"),
}
FIGURES = ("residual_noise", "recall", "auc", "mode_separation")
FIELDS = ("row", "noise_ratio", "seed", "test_rSum", *(f"{w}_{name}" for w in ("first", "last") for name in FIGURES))


@dataclass(frozen=True)
class StudyConfig:
    """What is run."""

    rows: str = flag(",".join(ROWS), "rows of the tables, separated by commas")
    noise_ratios: str = flag("0.2,0.4,0.6", "noise ratios, separated by commas")
    seeds: str = flag("0", "seeds, separated by commas")
    csv: str = flag("benchmarks/dsdmr.csv", "file of results, added to and resumed from")
    jobs: int = flag(2, "runs at the same time, one thread each")

    def __post_init__(self) -> None:
        check_range(self, "jobs", low=1)
        unknown = set(self.rows.split(",")) - set(ROWS)
        if unknown:
            raise InputError(f"--rows {', '.join(sorted(unknown))} unknown; known: {', '.join(ROWS)}")

    def grid(self) -> list[tuple[str, str, str]]:
        """Return (seed, noise ratio, row), seed by seed."""
        return list(product(self.seeds.split(","), self.noise_ratios.split(","), self.rows.split(",")))


def row_of(name: str, ratio: str, seed: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Train one network and return its row: test rSum, and the first and the last filtering."""
    own = [*ROWS[name], "--noise_ratio", ratio, "--seed", seed]
    record, metrics = run_recipe([*arguments, *own], threads=1)
    row: dict[str, Any] = {"row": name, "noise_ratio": ratio, "seed": seed}
    row["test_rSum"] = round(list(record["test"].values())[-1]["rSum"], 2)
    divisions = [r for r in metrics if r["event"] == "division"]
    for when, division in zip(("first", "last"), (divisions[0], divisions[-1]) if divisions else (), strict=False):
        for figure in FIGURES:
            value = division.get(f"division/A/{figure}")
            row[f"{when}_{figure}"] = None if value is None else round(value, 4)
    return row


def summary(rows: list[dict[str, str]]) -> str:
    """Return a Markdown table for each noise ratio: means over seeds, rSum with its standard deviation."""

    def mean(chosen: list[dict[str, str]], name: str, digits: int) -> str:
        values = [float(row[name]) for row in chosen if row[name]]
        return f"{np.mean(values):.{digits}f}" if values else "-"

    lines = []
    for ratio in sorted({row["noise_ratio"] for row in rows}, key=float):
        lines += [f"Noise {ratio}", ""]
        header = "| one network | test rSum | residual noise, first | last | recall, last | d', first | last |"
        lines += [header, "|---" * 7 + "|"]
        for name in ROWS:
            chosen = [row for row in rows if (row["row"], row["noise_ratio"]) == (name, ratio)]
            if not chosen:
                continue
            sums = [float(row["test_rSum"]) for row in chosen]
            spread = f" ± {np.std(sums, ddof=1):.1f}" if len(sums) > 1 else ""
            cells = [f"{np.mean(sums):.1f}{spread}"]
            cells += [mean(chosen, f"{when}_residual_noise", 3) for when in ("first", "last")]
            cells += [mean(chosen, "last_recall", 3)]
            cells += [mean(chosen, f"{when}_mode_separation", 2) for when in ("first", "last")]
            lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing from the CSV, then print the tables."""
    parser = OneLineParser(prog="python -m benchmarks.dsdmr", description="DSDMR's ablation on one network.")
    add_flags(parser, "benchmark", StudyConfig)
    namespace, arguments = parser.parse_known_args(argv)
    config = from_namespace(StudyConfig, namespace)
    path = Path(config.csv)
    done = {(row["seed"], row["noise_ratio"], row["row"]) for row in read_rows(path)}
    wanted = [cell for cell in config.grid() if cell not in done]
    lock = Lock()

    def work(cell: tuple[str, str, str]) -> None:
        seed, ratio, name = cell
        row = row_of(name, ratio, seed, arguments)
        with lock:
            append_row(path, row, FIELDS)
            print(f"noise {ratio}, seed {seed}, {name}: rSum {row['test_rSum']:.1f}", flush=True)

    print(f"{len(wanted)} runs to do, {len(done)} rows in {path}", flush=True)
    with ThreadPoolExecutor(config.jobs) as pool:
        list(pool.map(work, wanted))
    print(summary(read_rows(path)))


if __name__ == "__main__":
    main()
