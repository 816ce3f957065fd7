"""One HTML file about one or several runs: results, curves, divisions, calibration, pictures.

    python -m tools.report output/RUN
    python -m tools.report output/BASELINE output/BICRO output/MGCS --output report.html

The file opens from disk without a network. Runs may be unfinished, of other methods, and of other data sets (which is
said). Needs requirements-report.txt.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.device import choose_device
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from tools.command import check_writable
from tools.pages.page import Page, library
from tools.report.division import calibration_section, division_section
from tools.report.pictures import attention_section, pairs_section, retrieval_section
from tools.report.results import curves_section, results_section
from tools.report.runs import OpenedRun, Run, Sources, open_run, read_runs


@dataclass(frozen=True)
class ReportConfig:
    """Flags of tools.report."""

    output: str = flag("report.html", "the file to write (an existing one is replaced)", metavar="FILE")
    pictures: str | None = flag(
        None,
        "folder that the paths in {split}_images.txt start from (default: the data set's, or what was extracted from)",
        metavar="DIR",
    )
    no_pictures: bool = flag(False, "leave out everything with pictures")
    grid: int | None = flag(
        None, "regions are grid x grid cells of the picture, row by row (default: so in the embedded set, else boxes)"
    )
    queries: int = flag(6, "so many pictures and captions are searched with, and so many pairs shown of each kind")
    data_path: str | None = flag(
        None, "folder that holds the data set's folder (default: as in training)", metavar="DIR"
    )
    vocab_path: str | None = flag(None, "folder that holds the vocabulary (default: as in training)", metavar="DIR")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")

    def __post_init__(self) -> None:
        check_range(self, "queries", low=1, high=100)
        if self.grid is not None:
            check_range(self, "grid", low=1)
        check_writable("output", self.output)

    def sources(self) -> Sources:
        """Return where data and pictures are."""
        return Sources(
            self.data_path, self.vocab_path, self.pictures, not self.no_pictures, self.grid, choose_device(self.gpu)
        )


def open_runs(runs: Sequence[Run], sources: Sources) -> tuple[list[OpenedRun], list[str]]:
    """Open the networks and data of every run that has them; return what is to be said of the others."""
    opened, remarks = [], []
    for run in runs:
        try:
            opened.append(open_run(run, sources))
        except InputError as error:
            remarks.append(f"{run.label}: what needs its networks and data is left out, since {error}")
    return opened, remarks


def build(runs: Sequence[Run], config: ReportConfig) -> tuple[Page, list[str]]:
    """Return the report's page and what could not be shown."""
    runs = list(runs)
    sources = config.sources()
    opened, remarks = open_runs(runs, sources)
    title = runs[0].label if len(runs) == 1 else f"{len(runs)} runs"
    lead = ", ".join(f"{run.label} ({run.folder})" for run in runs)
    page = Page(f"Report: {title}", lead=lead)
    page.section("Results", *results_section(runs))
    page.section("Curves", *curves_section(runs))
    page.section("Division", *division_section(runs))
    page.section("Calibration", *calibration_section(runs))
    if opened:
        page.section("Retrieval", *retrieval_section(opened, config.queries))
        page.section("Attention", *attention_section(opened, config.queries))
        page.section("Training pairs", *pairs_section(opened, config.queries))
    remarks += dict.fromkeys(sources.remarks)
    if remarks:
        page.section("Left out", *remarks)
    return page, remarks


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Read the runs and write the report."""
    parser = OneLineParser(
        prog="python -m tools.report", description="Write a report of one or several runs as one HTML file."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that run.py wrote")
    add_flags(parser, "report", ReportConfig)
    namespace = parser.parse_args(argv)
    config = from_namespace(ReportConfig, namespace)
    library()  # told before minutes of work if it is missing
    page, remarks = build(read_runs(Path(name) for name in namespace.runs), config)
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr)
    size = page.write(Path(config.output))
    print(f"{config.output}: {len(namespace.runs)} run(s), {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
