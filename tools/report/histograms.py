"""Histograms of several kinds of numbers over each other, each as shares of its own size."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.pages.table import Cell

BINS = 45


def shares(values: dict[str, np.ndarray], low: float, high: float, bins: int = BINS) -> list[dict[str, Any]]:
    """Return the histogram of each named array as shares of its own size, for a chart of steps."""
    places = np.linspace(low, high, bins + 1)
    points = []
    for name, array in values.items():
        count = np.histogram(array, places)[0] / max(len(array), 1)
        points += [
            {"x": x, "x2": x2, "y": y, "kind": name}
            for x, x2, y in zip(places[:-1].tolist(), places[1:].tolist(), count.tolist(), strict=True)
        ]
    return points


def overlaid(points: list[dict[str, Any]], colours: dict[str, str], x: str) -> dict[str, Any]:
    """Return the chart of several histograms over each other, told apart by colour and outline."""
    return {
        "data": {"values": points},
        "mark": {"type": "area", "interpolate": "step-after", "line": {"strokeWidth": 2}, "fillOpacity": 0.28},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": x, "scale": {"nice": False}},
            "y": {"field": "y", "type": "quantitative", "title": "share", "stack": None, "axis": {"format": ".0%"}},
            "color": {
                "field": "kind",
                "type": "nominal",
                "title": None,
                "scale": {"domain": list(colours), "range": list(colours.values())},
            },
            "tooltip": [
                {"field": "kind", "type": "nominal"},
                {"field": "x", "type": "quantitative", "format": ".3~g"},
                {"field": "y", "type": "quantitative", "format": ".1%"},
            ],
        },
    }


def wide(points: list[dict[str, Any]], kinds: list[str]) -> list[list[Cell]]:
    """Return a row for each bin, a column for each kind."""
    by_bin: dict[float, list[Cell]] = {}
    for point in points:
        by_bin.setdefault(point["x"], [point["x"]]).append(point["y"])
    return [row for row in by_bin.values() if len(row) == len(kinds) + 1]
