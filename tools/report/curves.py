"""Section: loss, dev recalls and learning rate over the run, from metrics.jsonl."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation import RECALLS
from tools.pages.figures import DASHES, figure
from tools.pages.table import Cell
from tools.pages.text import Piece, grid, note
from tools.report.runs import EPOCHS_DONE, Run

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
    runs: list[Run], points: list[Point], *, x: str, y: str, by_network: bool, zero: bool, mark: dict[str, Any]
) -> dict[str, Any]:
    """Return the chart of a curve for every run, or for every network of every run.

    Args:
        runs: all runs of the report.
        points: `run`, `x`, `y` and, with `by_network`, `network`.
        x, y: titles of the axes.
        by_network: tell networks apart by the pattern of the line.
        zero: let the y axis begin at 0.
        mark: how lines look.
    """
    encoding: dict[str, Any] = {
        "x": {"field": "x", "type": "quantitative", "title": x, "axis": {"tickMinStep": 1, "grid": False}},
        "y": {"field": "y", "type": "quantitative", "title": y, "scale": {"zero": zero}},
        "color": colour_of_run(runs, points),
        "tooltip": [
            {"field": "run", "type": "nominal"},
            {"field": "x", "type": "quantitative", "title": x},
            {"field": "y", "type": "quantitative", "title": y, "format": ".4~g"},
        ],
    }
    if by_network:
        encoding["strokeDash"] = dash_of_network(points)
        encoding["tooltip"].insert(1, {"field": "network", "type": "nominal"})
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
    spec = line_chart(
        runs, points, x="optimiser step of the network", y="loss", by_network=True, zero=True, mark={"tooltip": True}
    )
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
                points.append(
                    {**common, "rSum": result["rSum"], **recalls, "is_final": network == list(record["results"])[-1]}
                )
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
        line_chart(runs, sums, x=EPOCHS_DONE, y="dev rSum", by_network=True, zero=False, mark=marked),
        title="Sum of the six dev recalls, every network and their mean",
        text=f"At most 600. {told}.",
        data=(columns, _rows(points, "run", "network", "title", "rSum", *names)),
        height=280,
        digits=1,
    )
    small = []
    for name in names:
        own = [{**p, "y": p[name]} for p in points if p["is_final"]]
        small.append(
            figure(
                line_chart(runs, own, x=EPOCHS_DONE, y="percent", by_network=False, zero=True, mark=marked),
                title=f"Dev {name}",
                text="; ".join(f"{run.label}: {_last(own, run)}" for run in runs) + ".",
                data=(("run", "epoch", name), _rows(own, "run", "title", "y")),
                height=150,
                digits=1,
            )
        )
    return [whole, grid(small)]


def _last(points: list[Point], run: Run) -> str:
    own = [p["y"] for p in points if p["run"] == run.label]
    return f"{own[-1]:.1f} percent at the last epoch" if own else "not validated yet"


def _learning_rate(runs: list[Run]) -> list[Piece]:
    points = [
        {"run": run.label, "x": record["step"], "title": record.get("title", ""), "y": record["learning_rate"]}
        for run in runs
        for record in run.events("dev")
        if "learning_rate" in record
    ]
    if not points:
        return []
    spec = line_chart(
        runs,
        points,
        x=EPOCHS_DONE,
        y="learning rate",
        by_network=False,
        zero=True,
        mark={"interpolate": "step-before", "point": {"filled": True, "size": 45}},
    )
    spec["encoding"]["y"]["axis"] = {"format": ".1e"}
    low, high = min(p["y"] for p in points), max(p["y"] for p in points)
    return [
        figure(
            spec,
            title="Learning rate",
            text=f"Between {low:g} and {high:g}.",
            data=(("run", "epoch", "learning rate"), _rows(points, "run", "title", "y")),
            height=140,
            digits=6,
        )
    ]


def curves_section(runs: list[Run]) -> list[Piece]:
    """Return the charts of loss, dev recalls and learning rate."""
    return [*_loss(runs), *_dev(runs), *_learning_rate(runs)]
