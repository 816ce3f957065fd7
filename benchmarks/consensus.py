"""What each part of the consensus method is worth: parts on and off, alone and with other methods, and the ceiling.

    python -m benchmarks.consensus @recipes/emoji_vse.args --csv benchmarks/consensus_vse.csv --seeds 0,1,2

Every row is `run.py` with the recipe's flags and the row's own; --rows, --noise_ratios and --seeds choose. Of a method
that trains one network (DSDMR) two are trained, with seeds s and s + 100, and their scores averaged, so that two
networks are compared with two. `ceiling` rows are trained without the mismatched pairs, by truth. Runs whose row is in
the CSV are not repeated. All choices are to be made by the dev column; test is for the report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.grid import REPOSITORY, GridConfig, Row, fill, mean_cell, number_in, run_recipe
from benchmarks.robustness import last_division
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, flag, from_namespace

CONSENSUS = ("--method", "consensus")
ROWS: dict[str, tuple[str, ...]] = {
    **{name: ("--method", name) for name in ("baseline", "ncr", "bicro", "mgcs", "dsdmr")},
    "consensus": CONSENSUS,
    "consensus, hinge": (*CONSENSUS, "--loss", "hinge"),
    "consensus, contrastive": (*CONSENSUS, "--loss", "contrastive"),
    "consensus, complementary": (*CONSENSUS, "--loss", "complementary"),
    "consensus, active complementary": (*CONSENSUS, "--loss", "active_complementary"),
    "consensus, pair alone": (*CONSENSUS, "--signal", "pair"),
    "consensus, no memory": (*CONSENSUS, "--signal_memory", "0"),
    "consensus, raw features": (*CONSENSUS, "--neighbour_space", "features"),
    "consensus, nothing rematched": (*CONSENSUS, "--refine", "posterior"),
    "consensus, label 1": (*CONSENSUS, "--refine", "labels"),
    **{f"{name}, bounded": ("--method", name, "--loss", "bounded") for name in ("baseline", "ncr", "bicro", "mgcs")},
    "mgcs, consensus signal": ("--method", "mgcs", "--signal", "consensus"),
    "mgcs, signal and rematch": ("--method", "mgcs", "--signal", "consensus", "--refine", "rematch"),
    "ceiling, hinge": ("--method", "baseline", "--remove_noise"),
    "ceiling, bounded": ("--method", "baseline", "--remove_noise", "--loss", "bounded"),
}
OTHERS = ("baseline", "ncr", "bicro", "mgcs", "dsdmr")
"""The published methods; the best of them is what a row is compared with."""

CEILINGS = ("ceiling, hinge", "ceiling, bounded")
ALONE = {"dsdmr"}
"""Rows of one network, which is trained twice."""

OTHER_SEED = 100
KEYS = ("seed", "noise_ratio", "row")
FIELDS = (*KEYS, "similarity", "dev_rSum", "test_rSum", "auc", "residual_noise", "offers", "seconds")


@dataclass(frozen=True)
class AblationConfig(GridConfig):
    """What is run."""

    rows: str = flag(";".join(ROWS), "rows of the tables, separated by semicolons")
    noise_ratios: str = flag("0.4", "noise ratios, separated by commas")
    csv: str = flag("benchmarks/consensus.csv", "file of results, added to and resumed from", metavar="FILE")

    def __post_init__(self) -> None:
        self.check(self.noise_ratios)
        unknown = set(self.rows.split(";")) - set(ROWS)
        if unknown:
            raise InputError(f"--rows {'; '.join(sorted(unknown))} unknown; known: {'; '.join(ROWS)}")

    def grid(self) -> list[tuple[str, ...]]:
        """Return (seed, noise ratio, row), seed by seed."""
        return self.cells(self.noise_ratios, self.rows.split(";"))


def row_of(cell: tuple[str, ...], arguments: Sequence[str], threads: int) -> Row:
    """Train one cell of the grid and return its row."""
    seed, ratio, name = cell
    own = [*arguments, *ROWS[name], "--noise_ratio", ratio]
    row: Row = {"seed": seed, "noise_ratio": ratio, "row": name}
    if name in ALONE:
        return row | _two_alone(own, int(seed), threads)
    record, metrics = run_recipe([*own, "--seed", seed], threads)
    return row | _figures(record, metrics)


def _figures(record: dict[str, Any], metrics: list[dict[str, Any]]) -> Row:
    """Return the cells of one run."""
    final = list(record["test"])[-1]
    offers = [v for r in metrics if r["event"] == "division" for k, v in r.items() if k.endswith("/offers")]
    return {
        "similarity": record["similarity"],
        "dev_rSum": round(record["dev"][final]["rSum"], 2),
        "test_rSum": round(record["test"][final]["rSum"], 2),
        "offers": round(offers[-1], 4) if offers else None,
        "seconds": round(record["seconds"], 1),
        **{k: round(v, 4) for k, v in last_division(metrics).items()},
    }


def _two_alone(arguments: Sequence[str], seed: int, threads: int) -> Row:
    """Train two networks apart from each other; return the cells of the mean of their scores, and of the first's
    division."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            run_recipe([*arguments, "--seed", str(s)], threads, output=Path(folder) / str(s))
            for s in (seed, seed + OTHER_SEED)
        ]
        paths = ",".join(str(path) for path in sorted(Path(folder).glob("*/*/checkpoint_dev_best.pth.tar")))
        cells = _figures(*runs[0])
        for split in ("dev", "test"):
            output = Path(folder) / f"{split}.json"
            command = [sys.executable, str(REPOSITORY / "evaluation.py"), "--mode_path", paths, "--split", split]
            subprocess.run([*command, "--output", str(output)], check=True, capture_output=True)
            found = json.loads(output.read_text(encoding="utf-8"))["results"]
            cells[f"{split}_rSum"] = round(list(found.values())[-1]["rSum"], 2)
        return cells | {"seconds": round(sum(record["seconds"] for record, _ in runs), 1)}


def summary(rows: list[dict[str, str]]) -> str:
    """Return a Markdown table for each similarity and noise ratio: dev, test, AUC, and the share of the gap closed.

    The gap is what lies between the baseline and the higher of the ceilings.
    """
    lines = []
    for kind, ratio in sorted(
        {(row["similarity"], row["noise_ratio"]) for row in rows}, key=lambda k: (k[0], float(k[1]))
    ):
        here = [row for row in rows if (row["similarity"], row["noise_ratio"]) == (kind, ratio)]
        of_row = {name: [row for row in here if row["row"] == name] for name in ROWS}
        mean = {n: float(np.mean([number_in(row, "test_rSum") for row in own])) for n, own in of_row.items() if own}
        best = max((mean[name] for name in OTHERS if name in mean), default=None)
        seeds = ", ".join(sorted({row["seed"] for row in here}, key=int))
        lines += [f"{kind}, noise {ratio}, seeds {seeds}", ""]
        lines += [
            "| | dev rSum | test rSum | against the best other | gap closed | AUC | rematched |",
            "|---" * 7 + "|",
        ]
        for name, own in of_row.items():
            if not own:
                continue
            against = "-" if best is None or name in OTHERS else f"{mean[name] - best:+.1f}"
            low, high = mean.get("baseline"), max((mean[name] for name in CEILINGS if name in mean), default=None)
            closed = "-" if low is None or high is None or high <= low else f"{(mean[name] - low) / (high - low):.0%}"
            cells = [mean_cell(own, "dev_rSum", 1), mean_cell(own, "test_rSum", 1), against, closed]
            cells += [mean_cell(own, "auc", 3, spread=False), mean_cell(own, "offers", 3, spread=False)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing from the CSV, then print the tables."""
    parser = OneLineParser(prog="python -m benchmarks.consensus", description="Each part of consensus on and off.")
    add_flags(parser, "benchmark", AblationConfig)
    namespace, arguments = parser.parse_known_args(argv)
    config = from_namespace(AblationConfig, namespace)
    work = partial(row_of, arguments=arguments, threads=config.threads)
    print(summary(fill(Path(config.csv), config.grid(), work, keys=KEYS, fields=FIELDS, jobs=config.jobs)))


if __name__ == "__main__":
    main()
