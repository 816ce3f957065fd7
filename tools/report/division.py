"""Section: how each network divided the training pairs, epoch by epoch.

Histograms of the division signal with both fitted components and, where it is known, the truth; and the quality of the
clean side over the epochs. Legend: N training pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.pages.figures import INK, MATCHED, MISMATCHED, NEUTRAL, figure
from tools.pages.text import Piece, details, grid, heading, note
from tools.report.curves import line_chart
from tools.report.runs import EPOCHS_DONE, Run, StoredDivision

EPOCHS = 6
"""Of more divisions the first, the last and others evenly between are drawn."""

BINS = 48
HEADROOM = 1.15
"""A component may be infinite at an end of the signal: the axis ends so far above the highest bar."""

QUALITIES = {
    "share_clean": "share of pairs called clean",
    "precision": "precision of the clean side",
    "recall": "recall of the clean side",
    "residual_noise": "mismatched share of the clean side",
    "auc": "AUC of the clean probability",
}


def chosen_epochs(epochs: list[int], most: int = EPOCHS) -> list[int]:
    """Return at most `most` epochs: the first, the last and others evenly between."""
    if len(epochs) <= most:
        return epochs
    return [epochs[k] for k in np.linspace(0, len(epochs) - 1, most).round().astype(int)]


def threshold(division: StoredDivision) -> float | None:
    """Return the signal that parts the sides, None where no single one does or a side is empty."""
    clean, noisy = division.signal[division.is_clean], division.signal[~division.is_clean]
    if not len(clean) or not len(noisy) or clean.max() > noisy.min():
        return None
    return float((clean.max() + noisy.min()) / 2)


def edges(division: StoredDivision) -> np.ndarray:
    """Return the bins' edges over the range of the signal."""
    low, high = float(division.signal.min()), float(division.signal.max())
    return np.linspace(low, high, BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, BINS + 1)


def sides(division: StoredDivision) -> dict[str, np.ndarray]:
    """Return bool masks (N,) of what the truth tells apart, `all pairs` where it is not known."""
    if division.is_matched is None:
        return {"all pairs": np.ones(len(division.signal), dtype=bool)}
    return {"matched": division.is_matched, "mismatched": ~division.is_matched}


COLOUR_OF_SIDE = {"matched": MATCHED, "mismatched": MISMATCHED, "all pairs": NEUTRAL}


LINES = {"clean component": "var(--clean-line)", "noisy component": "var(--noisy-line)"}


def histogram(division: StoredDivision, title: str) -> Piece:
    """Return the histogram of a division's signal, with its components and its threshold.

    Counts are drawn on a square-root scale: most pairs lie in a few bins, and the noisy side in the long tail.
    """
    places = edges(division)
    counts = {name: np.histogram(division.signal[mask], places)[0] for name, mask in sides(division).items()}
    top = HEADROOM * float(max(count.max() for count in counts.values()))
    bars = [
        {"x": a, "x2": b, "y": n, "series": name}
        for name, count in counts.items()
        for a, b, n in zip(places[:-1].tolist(), places[1:].tolist(), count.tolist(), strict=True)
        if n
    ]
    colour = {
        "field": "series",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(counts), "range": [COLOUR_OF_SIDE[name] for name in counts]},
        "legend": {"symbolType": "square"},
    }
    across = {
        "field": "x",
        "type": "quantitative",
        "title": "division signal",
        "scale": {"nice": False},
        "axis": {"grid": False},
    }
    up = {
        "field": "y",
        "type": "quantitative",
        "title": "pairs",
        "scale": {"type": "sqrt", "domain": [0, top], "nice": False},
    }
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": bars},
            "mark": {"type": "rect", "opacity": 0.62, "tooltip": True},
            "encoding": {"x": across, "x2": {"field": "x2"}, "y": up, "y2": {"datum": 0}, "color": colour},
        }
    ]
    told = [f"{len(division.signal):,} pairs, {100 * division.is_clean.mean():.1f} percent called clean"]
    if division.fitted is not None:
        layers.append(_components(division, places, top, across, up))
    else:
        told.append("no fitted components were kept")
    cut = threshold(division)
    if cut is not None:
        rule = {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 1.5, "color": INK}
        layers.append({"data": {"values": [{"x": cut}]}, "mark": rule, "encoding": {"x": across}})
        told.append(f"the sides part at a signal of {cut:.3g}")
    middles = ((places[:-1] + places[1:]) / 2).tolist()
    return figure(
        {"layer": layers},
        title=title,
        text="; ".join(told) + ".",
        data=(("signal", *counts), zip(middles, *(count.tolist() for count in counts.values()), strict=True)),
        height=190,
    )


def _components(
    division: StoredDivision, places: np.ndarray, top: float, across: dict[str, Any], up: dict[str, Any]
) -> dict[str, Any]:
    """Return the layer with the expected number of pairs a bin of both components; what leaves the chart is cut off."""
    assert division.fitted is not None
    x = np.linspace(places[0], places[-1], 161)
    expected = division.fitted.density(x) * len(division.signal) * (places[1] - places[0])
    values = [
        {"x": at, "y": min(y, top), "series": name}
        for name, row in zip(LINES, expected, strict=True)
        for at, y in zip(x.tolist(), row.tolist(), strict=True)
        if np.isfinite(y)
    ]
    common = {"field": "series", "type": "nominal", "title": None, "legend": {"symbolType": "stroke"}}
    stroke = {**common, "scale": {"domain": list(LINES), "range": list(LINES.values())}}
    dash = {**common, "scale": {"domain": list(LINES), "range": [[1, 0], [6, 3]]}}
    return {
        "data": {"values": values},
        "mark": {"type": "line", "clip": True, "strokeWidth": 2.4},
        "encoding": {"x": across, "y": up, "stroke": stroke, "strokeDash": dash},
    }


def _qualities(runs: list[Run]) -> list[Piece]:
    """Return a chart for each quality that some run recorded, over the epochs."""
    charts = []
    for quality, title in QUALITIES.items():
        points = []
        for run in runs:
            for record in run.events("division"):
                value = record.get(f"division/{record['network']}/{quality}")
                if value is not None:
                    points.append({"run": run.label, "network": record["network"], "x": record["step"], "y": value})
        if not points:
            continue
        last = {(p["run"], p["network"]): p["y"] for p in points}
        told = "; ".join(f"{run}, network {network} ends at {value:.3f}" for (run, network), value in last.items())
        marked = {"point": {"filled": True, "size": 45}}
        charts.append(
            figure(
                line_chart(
                    runs, points, x=EPOCHS_DONE, y=quality.replace("_", " "), by_network=True, zero=False, mark=marked
                ),
                title=title[0].upper() + title[1:],
                text=told + ".",
                data=(
                    ("run", "network", EPOCHS_DONE, quality),
                    [[p[n] for n in ("run", "network", "x", "y")] for p in points],
                ),
                height=160,
            )
        )
    return [heading("Quality of the division"), grid(charts)] if charts else []


def missing_divisions(run: Run) -> str:
    """Return why a run has no division files."""
    if not run.events("division"):
        return f"{run.label} divides no pairs, or has not done so yet."
    return (
        f"{run.label} has no divisions/ folder: it was trained before divisions were kept, or the disk was full. Its "
        "figures below come from metrics.jsonl; train it again for histograms."
    )


def division_section(runs: list[Run]) -> list[Piece]:
    """Return histograms of every run by epoch, then the quality of the divisions."""
    pieces: list[Piece] = [
        "The signal is low for pairs that look clean. Bars count the training pairs, on a square-root scale so that "
        "the few are seen beside the many; curves are the two fitted components, scaled to counts; the upright dashed "
        "line is where the clean side ends."
    ]
    for run in runs:
        if not run.divisions:
            pieces.append(note(missing_divisions(run)))
            continue
        networks = sorted({network for _, network in run.divisions})
        for network in networks:
            own = [epoch for epoch, name in run.divisions if name == network]
            chosen = chosen_epochs(own)
            charts = [histogram(run.division(epoch, network), f"After {run.title(epoch)}") for epoch in chosen]
            left_out = f" ({len(chosen)} of {len(own)} divisions)" if len(chosen) < len(own) else ""
            if network == networks[0]:
                pieces += [heading(f"{run.label}, network {network}{left_out}"), grid(charts)]
            else:
                pieces.append(details(f"{run.label}, network {network}{left_out}", grid(charts)))
    return [*pieces, *_qualities(runs)]
