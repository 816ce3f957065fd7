"""One HTML file about one or several runs: results, curves, divisions, calibration, pictures.

    python -m tools.report output/RUN
    python -m tools.report output/BASELINE output/BICRO output/MGCS --output report.html

The file opens from disk without a network. Runs may be unfinished, of other methods, and of other data sets (which is
said). Needs requirements-report.txt.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.device import choose_device
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, from_namespace
from tools.pages.page import Page, library
from tools.report.division import calibration_section, division_section
from tools.report.pictures import attention_section, pairs_section, retrieval_section
from tools.report.results import curves_section, results_section
from tools.report.runs import ReportConfig, Run, open_run, read_runs


def build(runs: Sequence[Run], config: ReportConfig) -> tuple[Page, list[str]]:
    """Return the report's page and what could not be shown."""
    runs = list(runs)
    opened, remarks, said = [], [], list[str]()
    device = choose_device(config.gpu)
    for run in runs:
        try:
            opened.append(open_run(run, config, device, said.append))
        except InputError as error:
            remarks.append(f"{run.label}: what needs its networks and data is left out, since {error}")
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
    remarks += dict.fromkeys(said)
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
