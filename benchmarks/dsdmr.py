"""DSDMR on the embedded data: its ablation, its margins, and other methods with one network each.

    python -m benchmarks.dsdmr @recipes/emoji_vse.args --csv benchmarks/dsdmr_vse.csv --seeds 0,1,2

Every row is one network with the recipe's flags. The paper's ablation (its Table 5, CLIP on MS-COCO) asks for the order
full > without GMM > without its loss > triplet; its Figure 4 asks whether the modes move further apart with the dynamic
margin. Runs whose row is in the CSV are not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.grid import Row, fill, mean_cell, run_recipe
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
KEYS = ("seed", "noise_ratio", "row")
FIELDS = ("row", "noise_ratio", "seed", "test_rSum", *(f"{w}_{name}" for w in ("first", "last") for name in FIGURES))


@dataclass(frozen=True)
class StudyConfig:
    """What is run."""

    rows: str = flag(",".join(ROWS), "rows of the tables, separated by commas")
    noise_ratios: str = flag("0.2,0.4,0.6", "noise ratios, separated by commas")
    seeds: str = flag("0", "seeds, separated by commas")
    csv: str = flag("benchmarks/dsdmr.csv", "file of results, added to and resumed from", metavar="FILE")
    jobs: int = flag(2, "runs at the same time, one thread each")

    def __post_init__(self) -> None:
        check_range(self, "jobs", low=1)
        unknown = set(self.rows.split(",")) - set(ROWS)
        if unknown:
            raise InputError(f"--rows {', '.join(sorted(unknown))} unknown; known: {', '.join(ROWS)}")

    def grid(self) -> list[tuple[str, ...]]:
        """Return (seed, noise ratio, row), seed by seed."""
        return list(product(self.seeds.split(","), self.noise_ratios.split(","), self.rows.split(",")))


def row_of(cell: tuple[str, ...], arguments: Sequence[str]) -> Row:
    """Train one network, of (seed, noise ratio, row); return its row: test rSum, the first and the last filtering."""
    seed, ratio, name = cell
    own = [*ROWS[name], "--noise_ratio", ratio, "--seed", seed]
    record, metrics = run_recipe([*arguments, *own], threads=1)
    row: Row = {"row": name, "noise_ratio": ratio, "seed": seed}
    row["test_rSum"] = round(list(record["test"].values())[-1]["rSum"], 2)
    divisions = [r for r in metrics if r["event"] == "division"]
    for when, division in zip(("first", "last"), (divisions[0], divisions[-1]) if divisions else (), strict=False):
        for figure in FIGURES:
            value = division.get(f"division/A/{figure}")
            row[f"{when}_{figure}"] = None if value is None else round(value, 4)
    return row


def summary(rows: list[dict[str, str]]) -> str:
    """Return a Markdown table for each noise ratio: means over seeds, rSum with its standard deviation."""
    lines = []
    for ratio in sorted({row["noise_ratio"] for row in rows}, key=float):
        lines += [f"Noise {ratio}", ""]
        header = "| one network | test rSum | residual noise, first | last | recall, last | d', first | last |"
        lines += [header, "|---" * 7 + "|"]
        for name in ROWS:
            chosen = [row for row in rows if (row["row"], row["noise_ratio"]) == (name, ratio)]
            if not chosen:
                continue
            cells = [mean_cell(chosen, "test_rSum", 1)]
            cells += [mean_cell(chosen, f"{when}_residual_noise", 3, spread=False) for when in ("first", "last")]
            cells += [mean_cell(chosen, "last_recall", 3, spread=False)]
            cells += [mean_cell(chosen, f"{when}_mode_separation", 2, spread=False) for when in ("first", "last")]
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
    work = partial(row_of, arguments=arguments)
    print(summary(fill(Path(config.csv), config.grid(), work, keys=KEYS, fields=FIELDS, jobs=config.jobs)))


if __name__ == "__main__":
    main()
