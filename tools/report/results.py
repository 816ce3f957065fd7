"""Sections: results beside published ones, how the settings differ, and loss and dev recalls as curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from models.ranks import RECALLS
from tools.pages.page import DASHES, Cell, Piece, details, figure, heading, note, table
from tools.report.runs import EPOCHS_DONE, Run
from tools.result_rows import Section, over_seeds, read_published, read_results, sections
from tools.table import IN_TITLE, cells, legend

POINTS = 300
"""A curve is drawn with at most so many points; each is then the mean of a stretch."""

LEGEND_LETTERS = 44
"""So many letters stand beside each other in a legend on a phone."""

Point = dict[str, Any]


def thinned(steps: np.ndarray, values: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `points` means of consecutive stretches: of steps (n,) and of values (n,)."""
    if len(steps) <= points:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), points)
    return (np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts]))


def colour_of_run(runs: list[Run], points: list[Point]) -> dict[str, Any]:
    """Return the colour channel that tells runs apart: the same colours in every chart, those in it in its legend."""
    labels, there = [run.label for run in runs], {point["run"] for point in points}
    shown = [label for label in labels if label in there]
    columns = max(1, LEGEND_LETTERS // max(map(len, shown), default=1))
    legend = {"values": shown, "symbolType": "stroke", "columns": columns}
    return {"field": "run", "type": "nominal", "title": None, "scale": {"domain": labels}, "legend": legend}


def dash_of_network(points: list[Point]) -> dict[str, Any]:
    """Return the channel of line patterns that tells networks apart."""
    names = list(dict.fromkeys(point["network"] for point in points))
    scale = {"domain": names, "range": list(DASHES[: len(names)])}
    legend = {"symbolType": "stroke", "symbolFillColor": "transparent"}
    return {"field": "network", "type": "nominal", "title": None, "scale": scale, "legend": legend}


def line_chart(
    runs: list[Run], points: list[Point], *, x: str, y: str, mark: dict[str, Any], zero: bool = False
) -> dict[str, Any]:
    """Return the chart of a curve for every network of every run.

    Args:
        runs: all runs of the report.
        points: `run`, `network`, `x`, `y`.
        x, y: titles of the axes.
        mark: how lines look.
        zero: let the y axis begin at 0.
    """
    encoding: dict[str, Any] = {
        "x": {"field": "x", "type": "quantitative", "title": x, "axis": {"tickMinStep": 1, "grid": False}},
        "y": {"field": "y", "type": "quantitative", "title": y, "scale": {"zero": zero}},
        "color": colour_of_run(runs, points),
        "strokeDash": dash_of_network(points),
        "tooltip": [
            *({"field": name, "type": "nominal"} for name in ("run", "network")),
            {"field": "x", "type": "quantitative", "title": x},
            {"field": "y", "type": "quantitative", "title": y, "format": ".4~g"},
        ],
    }
    return {"data": {"values": points}, "mark": {"type": "line", **mark}, "encoding": encoding}


def _rows(points: list[Point], *names: str) -> list[list[Cell]]:
    return [[point[name] for name in names] for point in points]


def _loss(runs: list[Run]) -> list[Piece]:
    points: list[Point] = []
    for run in runs:
        networks: dict[str, list[tuple[float, float]]] = {}
        for record in run.events("loss"):
            name = record["network"]
            networks.setdefault(name, []).append((record["step"], record.get(f"loss/{name}", np.nan)))
        for name, pairs in networks.items():
            steps, values = thinned(*np.array(pairs, dtype=float).T)
            points += [
                {"run": run.label, "network": name, "x": round(x), "y": y}
                for x, y in zip(steps.tolist(), values.tolist(), strict=True)
                if np.isfinite(y)
            ]
    if not points:
        return [note("No losses are recorded yet.")]
    last = {(p["run"], p["network"]): p["y"] for p in points}
    told = "; ".join(f"{run}, network {network} ends at {value:.3g}" for (run, network), value in last.items())
    spec = line_chart(runs, points, x="optimiser step of the network", y="loss", zero=True, mark={"tooltip": True})
    return [
        figure(
            spec,
            title="Training loss",
            text=f"Mean loss of the last steps. {told}.",
            data=(("run", "network", "step", "loss"), _rows(points, "run", "network", "x", "y")),
            height=280,
            digits=4,
        ),
        "It jumps where negatives become harder, from warm-up to the hardest: only its course within a phase tells "
        "something.",
    ]


def _dev_points(runs: list[Run]) -> list[Point]:
    points = []
    for run in runs:
        for record in run.events("dev"):
            for network, result in record["results"].items():
                recalls = {f"{way} R@{k}": result[way][f"R@{k}"] for way in ("i2t", "t2i") for k in RECALLS}
                common = {"run": run.label, "network": network, "x": record["step"], "title": record.get("title", "")}
                points.append({**common, "rSum": result["rSum"], **recalls})
    return points


def _dev(runs: list[Run]) -> list[Piece]:
    points = _dev_points(runs)
    if not points:
        return [note("No epoch has been validated yet.")]
    marked = {"point": {"filled": True, "size": 45}}
    names = [f"{way} R@{k}" for way in ("i2t", "t2i") for k in RECALLS]
    best = {run.label: max((p["rSum"] for p in points if p["run"] == run.label), default=None) for run in runs}
    told = "; ".join(f"{label} reaches {value:.1f}" for label, value in best.items() if value is not None)
    sums = [{**p, "y": p["rSum"]} for p in points]
    columns = ("run", "network", "epoch", "rSum", *names)
    whole = figure(
        line_chart(runs, sums, x=EPOCHS_DONE, y="dev rSum", mark=marked),
        title="Sum of the six dev recalls, every network and their mean",
        text=f"At most 600. {told}.",
        data=(columns, _rows(points, "run", "network", "title", "rSum", *names)),
        height=280,
        digits=1,
    )
    return [whole]


def curves_section(runs: list[Run]) -> list[Piece]:
    """Return the charts of loss and dev recalls."""
    return [*_loss(runs), *_dev(runs)]


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
        pieces += _tables(sections(rows, read_published(), "auto"))
        means = [row for row in over_seeds(rows) if row.spread]
        if means:
            pieces += [heading("Means over seeds"), *_tables(sections(means, [], "none"))]
    dev = _dev_rows(runs)
    if dev:
        columns = ("run", "epoch", *NUMBERS)
        pieces += [heading("Best epoch on dev"), table(columns, dev, caption="Best validated epoch on dev, percent")]
    return [*pieces, *_settings(runs)]
