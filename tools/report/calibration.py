"""Section: is the clean probability right? ROC and calibration of every run's last division, where the truth is known.

Legend: N training pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from tools.pages.figures import INK, figure
from tools.pages.table import table
from tools.pages.text import Piece, grid, note
from tools.report.curves import colour_of_run, dash_of_network
from tools.report.runs import EPOCHS_DONE, Run, StoredDivision

BINS = 10
ROC_POINTS = 120


@dataclass(frozen=True)
class Bin:
    """Pairs of similar clean probability: how many, their mean probability, and which share of them is matched."""

    pairs: int
    probability: float
    matched: float


def calibration(probability: np.ndarray, is_matched: np.ndarray, bins: int = BINS) -> list[Bin]:
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
        brier = float(brier_score_loss(division.is_matched, np.clip(division.probability, 0, 1)))
        rows.append((run.label, division.network, division.epoch, auc, expected_error(own), brier))
    told = "; ".join(f"{run}, network {network}: {auc:.3f}" for run, network, _, auc, _, _ in rows)
    errors = "; ".join(f"{run}, network {network}: {error:.3f}" for run, network, _, _, error, _ in rows)
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
    columns = ("run", "network", EPOCHS_DONE, "AUC", "expected calibration error", "Brier score")
    return [
        "Of every run's last division, on all its training pairs.",
        *notes,
        grid(charts),
        table(columns, rows, caption="How right the clean probability is", digits=3),
    ]


def _thin(points: list[dict]) -> list[list]:
    return [[p["run"], p["network"], p["x"], p["y"]] for p in points if p["n"] % 10 == 0]
