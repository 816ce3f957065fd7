"""Tables of results beside published ones, with what keeps them from being compared.

    python -m tools.table output/*/results.json --format markdown --output table.md

RESULTS are results.json files (or their folders) of run.py and CLIP runs, and files of `evaluation.py --output`. Seeds
of one setting are averaged. Published rows are in published_results.json beside this file.
"""

from __future__ import annotations

import csv
import io
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import exit_on_input_error
from runtime.files import write_atomically
from runtime.flags import OneLineParser, add_flags, check_choices, flag, from_namespace
from runtime.log import table
from tools.command import check_writable
from tools.result_rows import MARKS, RECALLS, Row, Section, marks, over_seeds, read_published, read_results, sections

COLUMNS = (
    *("method", "similarity", "source", "data", "split", "ratio asked", "ratio measured", "noise protocol", "networks"),
    *("seeds", "epoch", "chosen on", *RECALLS, "rSum", "not comparable"),
)
IN_TITLE = ("data", "ratio asked")
UNKNOWN = "-"
AS_PUBLISHED = "*"
"""Stands behind a sum that could not be recomputed."""
WIDTH, LONGEST_NAME = 80, 15
"""Characters of a terminal's line, and of a method in it."""
AUTO = "auto"


@dataclass(frozen=True)
class TableConfig:
    """Flags of the table."""

    format: str = flag(
        AUTO,
        f"how the tables are written: text is {WIDTH} columns wide; auto: text on a terminal, else markdown",
        choices=(AUTO, "text", "markdown", "csv", "latex"),
    )
    published: str = flag(
        "auto",
        "published rows beside ours: auto takes those of the same data set, or all where there are none",
        choices=("auto", "all", "none"),
        metavar="FILE",
    )
    output: str | None = flag(None, "write to this file instead of the terminal", metavar="FILE")

    def __post_init__(self) -> None:
        check_choices(self)
        check_writable("output", self.output)


def _number(value: float | None, spread: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def _listed(values: Sequence[object]) -> str:
    return ", ".join(UNKNOWN if value is None else str(value) for value in values) or UNKNOWN


def _is_as_published(row: Row) -> bool:
    return row.r_sum is not None and None in row.recalls


def cells(row: Row, reference: Row | None) -> dict[str, str]:
    """Return a row's cells by column."""
    spread = row.spread or (None,) * (len(RECALLS) + 1)
    numbers = [_number(v, s) for v, s in zip((*row.recalls, row.r_sum), spread, strict=True)]
    if _is_as_published(row):
        numbers[-1] += AS_PUBLISHED
    return {
        "method": row.method,
        "similarity": row.similarity or (row.features if row.features != "regions" else UNKNOWN),
        "source": row.source,
        "data": row.data_name,
        "split": row.split,
        "ratio asked": UNKNOWN if row.noise_ratio is None else f"{row.noise_ratio:g}",
        "ratio measured": UNKNOWN if row.measured_ratio is None else f"{row.measured_ratio:.4f}",
        "noise protocol": row.noise_protocol or UNKNOWN,
        "networks": UNKNOWN if row.num_networks is None else str(row.num_networks),
        "seeds": _listed(row.seeds),
        "epoch": _listed(row.epochs),
        "chosen on": row.chosen_on or UNKNOWN,
        **dict(zip((*RECALLS, "rSum"), numbers, strict=True)),
        "not comparable": marks(row, reference),
    }


def _shown(section: Section) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns that the title does not say already, and the rows' cells."""
    rows = [cells(row, section.reference) for row in section.rows]
    is_told = {name for name in IN_TITLE if len({row[name] for row in rows}) == 1}
    return [name for name in COLUMNS if name not in is_told], rows


def legend(made: Sequence[Section]) -> list[str]:
    """Return a line for each mark that occurs."""
    used = {mark for section in made for row in section.rows for mark in marks(row, section.reference).split()}
    lines = [f"{mark}: {meaning}" for mark, meaning in MARKS.items() if mark in used]
    if any(_is_as_published(row) for section in made for row in section.rows):
        lines.append(f"{AS_PUBLISHED} behind a sum: as published, its six recalls are not kept here")
    return lines


def markdown(made: Sequence[Section], notes: Sequence[str]) -> str:
    """Return Markdown tables with legend and notes."""
    lines = []
    for section in made:
        columns, rows = _shown(section)
        whole = [
            columns,
            ["---"] * len(columns),
            *([row[name].replace("|", "\\|") for name in columns] for row in rows),
        ]
        lines += [f"### {section.title}", "", *("| " + " | ".join(line) + " |" for line in whole), ""]
    lines += _explained(made, notes, "- ")
    return "\n".join(lines).rstrip() + "\n"


def text(made: Sequence[Section], notes: Sequence[str]) -> str:
    """Return tables for a terminal: the means alone, and below each table where its numbered rows come from."""
    lines = []
    for section in made:
        columns, rows = _shown(section)
        header = ["", *(name.replace(" ", "\n") for name in RECALLS), "rSum", "marks"]
        numbered, told = [], []
        for number, row in enumerate(rows, start=1):
            name = textwrap.shorten(row["method"], LONGEST_NAME, placeholder="...")
            means = [row[recall].partition(" ")[0] for recall in RECALLS]
            numbered.append([f"{number} {name}", *means, row["rSum"].replace(" ± ", "±"), row["not comparable"]])
            known = [n for n in columns if n not in (*RECALLS, "rSum", "not comparable", "method")]
            named = [row["method"], *(f"{n} {row[n]}" for n in known if row[n] != UNKNOWN)]
            told += textwrap.wrap(f"{number}: {'; '.join(named)}", WIDTH, subsequent_indent="   ")
        lines += [section.title, "", table(header, numbered), "", *told, ""]
    for line in _explained(made, notes, "- "):
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="  ") or [""]
    return "\n".join(lines).rstrip() + "\n"


def _explained(made: Sequence[Section], notes: Sequence[str], bullet: str) -> list[str]:
    marked, lines = legend(made), []
    if marked:
        lines += [
            "Why a row is not comparable with the first row of its table:",
            "",
            *(bullet + line for line in marked),
            "",
        ]
    if notes:
        lines += ["Sums that disagree (the tables have the recomputed ones):", "", *(bullet + n for n in notes), ""]
    return lines


def comma_separated(made: Sequence[Section], notes: Sequence[str]) -> str:
    """Return CSV: one header, every column, then legend and notes as lines that start with #."""
    target = io.StringIO()
    writer = csv.DictWriter(target, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for section in made:
        writer.writerows(cells(row, section.reference) for row in section.rows)
    target.writelines(f"# {line}\n" for line in [*legend(made), *notes])
    return target.getvalue()


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\textbackslash ")
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text.replace("±", r"$\pm$").replace("~", r"\textasciitilde ").replace("^", r"\textasciicircum ")


def latex(made: Sequence[Section], notes: Sequence[str]) -> str:
    """Return LaTeX tables that need no package, with legend and notes."""
    lines = []
    for section in made:
        columns, rows = _shown(section)
        lines += [r"\begin{table}", rf"\caption{{{_escaped(section.title)}}}"]
        lines += [rf"\begin{{tabular}}{{{'l' * len(columns)}}}", r"\hline"]
        lines += [" & ".join(map(_escaped, columns)) + r" \\", r"\hline"]
        lines += [" & ".join(_escaped(row[name]) for name in columns) + r" \\" for row in rows]
        lines += [r"\hline", r"\end{tabular}", r"\end{table}", ""]
    explained = _explained(made, notes, "")
    lines += [_escaped(line) + (r" \\" if line else "") for line in explained]
    return "\n".join(lines).rstrip() + "\n"


FORMATS: dict[str, Callable[[Sequence[Section], Sequence[str]], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": comma_separated,
    "latex": latex,
}


def build(config: TableConfig, paths: Sequence[Path]) -> str:
    """Return the tables of some results files."""
    own = over_seeds([row for path in paths for row in read_results(path)])
    made = sections(own, read_published(), config.published)
    notes = dict.fromkeys(note for section in made for row in section.rows for note in row.notes)
    shown = "text" if config.output is None and sys.stdout.isatty() else "markdown"
    return FORMATS[shown if config.format == AUTO else config.format](made, list(notes))


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Read the files, print or write the tables."""
    parser = OneLineParser(prog="python -m tools.table", description="Tables of results beside published ones.")
    parser.add_argument("results", nargs="+", metavar="RESULTS", help="results.json files, their folders, ...")
    add_flags(parser, "table", TableConfig)
    namespace = parser.parse_args(argv)
    config = from_namespace(TableConfig, namespace)
    written = build(config, [Path(name) for name in namespace.results])
    if config.output is None:
        print(written, end="")
    else:
        write_atomically(Path(config.output), written.encode())
        print(f"{config.output}: {len(namespace.results)} results")


if __name__ == "__main__":
    main()
