"""Sections: how each network divided the training pairs, epoch by epoch, and whether its clean probability is right.

Histograms of the division signal with both fitted components and, where it is known, the truth; the quality of the
clean side over the epochs; ROC and calibration of the last division. Legend: N training pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from tools.pages.page import INK, MATCHED, MISMATCHED, NEUTRAL, Piece, details, figure, grid, heading, note, table
from tools.report.results import colour_of_run, dash_of_network, line_chart
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
                line_chart(runs, points, x=EPOCHS_DONE, y=quality.replace("_", " "), mark=marked),
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


CALIBRATION_BINS = 10
ROC_POINTS = 120


@dataclass(frozen=True)
class Bin:
    """Pairs of similar clean probability: how many, their mean probability, and which share of them is matched."""

    pairs: int
    probability: float
    matched: float


def calibration(probability: np.ndarray, is_matched: np.ndarray, bins: int = CALIBRATION_BINS) -> list[Bin]:
    """Return the bins of equal width over [0, 1] that hold pairs, in order; 1 belongs to the last."""
    number = np.minimum((probability * bins).astype(int), bins - 1)
    found = []
    for k in np.unique(number).tolist():
        own = number == k
        found.append(Bin(int(own.sum()), float(probability[own].mean()), float(is_matched[own].mean())))
    return found


def expected_error(bins: list[Bin]) -> float:
    """Return the mean distance of probability and matched share, weighted by the pairs of each bin."""
    total = sum(b.pairs for b in bins)
    return sum(b.pairs * abs(b.probability - b.matched) for b in bins) / total


def roc_points(probability: np.ndarray, is_matched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates of "clean means matched", at most `ROC_POINTS` of them."""
    false_rate, true_rate, _ = roc_curve(is_matched, probability)
    # evenly along the curve and not along its points, which crowd where probabilities differ in the last digit
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(false_rate), np.diff(true_rate)))])
    chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], ROC_POINTS)).clip(max=len(along) - 1))
    return false_rate[chosen], true_rate[chosen]


def _diagonal() -> dict:
    return {
        "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
        "mark": {"type": "line", "strokeDash": [2, 3], "color": INK, "strokeWidth": 1, "opacity": 0.6},
        "encoding": {"x": {"field": "x", "type": "quantitative"}, "y": {"field": "y", "type": "quantitative"}},
    }


def _chart(runs: list[Run], points: list[dict], x: str, y: str, tooltip: list[dict]) -> dict:
    unit = {"domain": [0, 1]}
    return {
        "layer": [
            _diagonal(),
            {
                "data": {"values": points},
                "mark": {"type": "line", "point": {"filled": True, "size": 30} if tooltip else False},
                "encoding": {
                    "x": {"field": "x", "type": "quantitative", "title": x, "scale": unit},
                    "y": {"field": "y", "type": "quantitative", "title": y, "scale": unit},
                    "color": colour_of_run(runs, points),
                    "strokeDash": dash_of_network(points),
                    "order": {"field": "n", "type": "quantitative"},
                    "tooltip": tooltip or None,
                },
            },
        ]
    }


def _known(runs: list[Run]) -> tuple[list[tuple[Run, StoredDivision]], list[Piece]]:
    """Return the last divisions whose truth is known and has both kinds, and what is to be said of the others."""
    found: list[tuple[Run, StoredDivision]] = []
    notes: list[Piece] = []
    for run in runs:
        if not run.divisions:
            notes.append(note(f"{run.label}: no stored division, so no clean probabilities."))
            continue
        for division in run.last_divisions():
            truth = division.is_matched
            if truth is None or truth.all() or not truth.any():
                reason = "is not known" if truth is None else "has one kind of pairs only"
                notes.append(note(f"{run.label}, network {division.network}: the truth {reason}."))
            else:
                found.append((run, division))
    return found, notes


def calibration_section(runs: list[Run]) -> list[Piece]:
    """Return the ROC, the calibration and their figures."""
    known, notes = _known(runs)
    if not known:
        return notes
    roc, bins, rows, bin_rows = [], [], [], []
    for run, division in known:
        assert division.is_matched is not None
        common = {"run": run.label, "network": division.network}
        for n, (x, y) in enumerate(zip(*roc_points(division.probability, division.is_matched), strict=True)):
            roc.append({**common, "n": n, "x": float(x), "y": float(y)})
        own = calibration(division.probability, division.is_matched)
        for n, b in enumerate(own):
            bins.append({**common, "n": n, "x": b.probability, "y": b.matched, "pairs": b.pairs})
            bin_rows.append((run.label, division.network, b.probability, b.matched, b.pairs))
        auc = float(roc_auc_score(division.is_matched, division.probability))
        rows.append((run.label, division.network, division.epoch, auc, expected_error(own)))
    told = "; ".join(f"{run}, network {network}: {auc:.3f}" for run, network, _, auc, _ in rows)
    errors = "; ".join(f"{run}, network {network}: {error:.3f}" for run, network, _, _, error in rows)
    charts = [
        figure(
            _chart(runs, roc, "mismatched pairs called clean", "matched pairs called clean", []),
            title="ROC of the clean probability",
            text=f"Area under the curve: {told}.",
            data=(("run", "network", "false positive rate", "true positive rate"), _thin(roc)),
            height=300,
        ),
        figure(
            _chart(
                runs,
                bins,
                "mean clean probability",
                "share that is matched",
                [{"field": name, "type": "nominal"} for name in ("run", "network", "pairs")],
            ),
            title="Calibration of the clean probability",
            text=f"On the diagonal the probability is right. Expected calibration error: {errors}.",
            data=(("run", "network", "mean probability", "share matched", "pairs"), bin_rows),
            height=300,
        ),
    ]
    columns = ("run", "network", EPOCHS_DONE, "AUC", "expected calibration error")
    return [
        "Of every run's last division, on all its training pairs.",
        *notes,
        grid(charts),
        table(columns, rows, caption="How right the clean probability is", digits=3),
    ]


def _thin(points: list[dict]) -> list[list]:
    return [[p["run"], p["network"], p["x"], p["y"]] for p in points if p["n"] % 10 == 0]
