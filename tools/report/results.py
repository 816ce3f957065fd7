"""Section: the runs' results beside published ones, each with its protocol; and how the runs' settings differ."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from evaluation import RECALLS
from tools.pages.table import table
from tools.pages.text import Piece, details, heading, note
from tools.report.runs import Run
from tools.result_rows import Section, over_seeds, read_published, read_results, sections
from tools.table import IN_TITLE, cells, legend

WHAT, HOW = ("method", "similarity"), ("source", "noise protocol", "networks", "seeds", "epoch", "chosen on")
WHY_NOT = "not comparable"
NUMBERS = (*(f"{way} R@{k}" for way in ("i2t", "t2i") for k in RECALLS), "rSum")
DATA = ("data", "split", "ratio asked", "ratio measured")
PER_RUN = {"id", "output_dir", "resume", "workers", "log_step", "save_minutes", "gpu"}


def _tables(made: list[Section]) -> list[Piece]:
    pieces: list[Piece] = []
    for section in made:
        shown = [cells(row, section.reference) for row in section.rows]
        own = [k for k, row in enumerate(section.rows) if not row.is_published]
        told = [name for name in DATA if name not in IN_TITLE or len({row[name] for row in shown}) > 1]
        names = (*WHAT, *NUMBERS, WHY_NOT, *HOW, *told)
        rows = [[row[name] for name in names] for row in shown]
        pieces.append(table(names, rows, caption=section.title, strong=own, right=NUMBERS))
    lines = legend(made)
    if lines:
        pieces.append("A row with letters under “not comparable” must not be read against the first row of its table:")
        pieces.append(_listed(lines))
    return pieces


def _listed(lines: list[str]) -> Markup:
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(line) for line in lines))


def _dev_rows(runs: list[Run]) -> list[list[Any]]:
    """Return each run's best validated epoch: label, epoch, the six recalls and their sum of its last network."""
    rows = []
    for run in runs:
        best = max(run.events("dev"), key=lambda record: _final(record)["rSum"], default=None)
        if best is not None:
            final = _final(best)
            recalls = [final[way][f"R@{k}"] for way in ("i2t", "t2i") for k in RECALLS]
            rows.append([run.label, best.get("title", str(best["step"])), *recalls, final["rSum"]])
    return rows


def _final(record: dict[str, Any]) -> dict[str, Any]:
    """Return the result of the mean of all networks, which comes last, or of the only one."""
    return list(record["results"].values())[-1]


def flat(config: dict[str, Any]) -> dict[str, str]:
    """Return all settings as text by their names."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": text for inner, text in flat(value).items()}
        else:
            found[name] = "–" if value is None else str(value)
    return found


def _settings(runs: list[Run]) -> list[Piece]:
    by_run = [flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for settings in by_run for name in settings))
    rows = [(name, *(settings.get(name, "–") for settings in by_run)) for name in names]
    columns = ("setting", *(run.label for run in runs))
    pieces: list[Piece] = []
    if len(runs) > 1:
        differing = [r for r in rows if len(set(r[1:])) > 1 and r[0].rpartition(".")[2] not in PER_RUN]
        pieces += [heading("Settings that differ"), table(columns, differing, caption="Settings that differ")]
    return [*pieces, details("All settings", table(columns, rows, caption="All settings"))]


def results_section(runs: list[Run]) -> list[Piece]:
    """Return tables of the test results, of the best dev epochs, and of the settings."""
    finished = [run for run in runs if run.results is not None]
    pieces: list[Piece] = []
    if len({run.data_name for run in runs}) > 1:
        names = ", ".join(sorted({run.data_name for run in runs}))
        pieces.append(note(f"These runs are of different data sets ({names}): their numbers must not be compared."))
    for run in runs:
        if run.results is None:
            pieces.append(
                note(f"{run.label} is not finished: no test results yet, what follows is what it has recorded.")
            )
    if finished:
        rows = [row for run in finished for row in read_results(run.folder)]
        published = [row for row in read_published() if not row.is_ablation]
        pieces += _tables(sections(rows, published, "auto"))
        means = [row for row in over_seeds(rows) if row.spread]
        if means:
            pieces += [heading("Means over seeds"), *_tables(sections(means, [], "none"))]
        each = [row for run in finished for row in read_results(run.folder, each=True)]
        if len(each) > len(rows):
            pieces.append(details("Every network by itself", *_tables(sections(each, [], "none"))))
    dev = _dev_rows(runs)
    if dev:
        columns = ("run", "epoch", *NUMBERS)
        pieces += [heading("Best epoch on dev"), table(columns, dev, caption="Best validated epoch on dev, percent")]
    return [*pieces, *_settings(runs)]
