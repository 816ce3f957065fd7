"""Drift factors: do they tell matched from mismatched training pairs (MGCS, AAAI 2026, Eq. 4-6)?

Those that the last division kept, else computed from the networks of the best epoch, with neighbours from the whole
training set.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from methods.mgcs import MGCS, MGCSConfig
from models.encoded_split import evaluating
from models.matcher import Matcher
from tools.pages.figures import MATCHED, MISMATCHED, figure
from tools.pages.table import table
from tools.pages.text import Piece, grid, note
from tools.report.histograms import overlaid, shares, wide
from tools.report.opened import OpenedRun
from tools.report.runs import Run
from training.data import RunData
from training.evidence import collect_bank

BLOCK = 256
MOST_PAIRS = 200_000
"""Of larger training sets no drift factors are computed here; those that a division kept are shown."""

SAMPLE = 10_000
FACTOR = "drift_factor"


@torch.no_grad()
def computed_factors(
    matcher: Matcher, data: RunData, config: MGCSConfig, device: torch.device
) -> tuple[np.ndarray, ...]:
    """Return the drift factors of at most `SAMPLE` training pairs, evenly spread, and their numbers."""
    method = MGCS(config)
    with evaluating(matcher):
        if method.needs_bank:
            method.remember(collect_bank(matcher, data.train, BLOCK, device))
        chosen = np.unique(np.linspace(0, len(data.train) - 1, min(SAMPLE, len(data.train))).astype(int))
        shuffled = np.random.RandomState(0).permutation(chosen)  # an image's captions in one batch are no neighbours
        found = []
        for numbers in np.array_split(shuffled, -(-len(shuffled) // BLOCK)):
            batch = data.train[torch.from_numpy(numbers)].to(device)
            found.append(method.factors(matcher.embed(batch), batch).diagonal().cpu().numpy())
    return np.concatenate(found).astype(float), shuffled


def _factors(run: Run, opened: OpenedRun | None) -> tuple[str, dict[str, np.ndarray], np.ndarray] | str:
    """Return where a run's factors come from, named values of its pairs (n,) and the truth (n,); or why not."""
    if run.divisions:
        division = run.last_divisions()[0]
        if FACTOR in division.diagnostics and division.is_matched is not None:
            where = f"network {division.network}, last division, {len(division.signal):,} pairs"
            return where, dict(division.diagnostics), division.is_matched
    if opened is None:
        return "its networks or data are not at hand"
    if not opened.data.truth_is_known:
        return "which of its pairs are matched is not known"
    if len(opened.data.train) > MOST_PAIRS:
        return f"it has more than {MOST_PAIRS:,} training pairs and no division that kept its factors"
    name, matcher = next(iter(opened.matchers.items()))
    reading = MGCSConfig(drift_neighbours="bank", drift_own=True)  # which spoke best on the embedded data
    factors, pairs = computed_factors(matcher, opened.data, reading, opened.sources.device)
    where = f"network {name} of the best epoch, {len(pairs):,} pairs, neighbours from the whole training set"
    return where, {FACTOR: factors}, opened.data.train.is_matched[pairs]


def factors_part(runs: list[Run], all_opened: list[OpenedRun]) -> list[Piece]:
    """Return the histograms of the drift factors of matched and mismatched pairs, and how well they tell them apart."""
    by_folder = {opened.run.folder: opened for opened in all_opened}
    charts, rows = [], []
    notes: list[Piece] = []
    for run in runs:
        found = _factors(run, by_folder.get(run.folder))
        if isinstance(found, str):
            notes.append(note(f"{run.label}: no drift factors, since {found}."))
            continue
        where, named, is_matched = found
        if is_matched.all() or not is_matched.any():
            notes.append(note(f"{run.label}: all pairs are of one kind, so that factors have nothing to tell apart."))
            continue
        auc = {name: float(roc_auc_score(is_matched, values)) for name, values in named.items()}
        rows.append((run.label, where, auc.get("similarity"), auc[FACTOR], auc.get("corrected")))
        factors = named[FACTOR]
        values = {"matched": factors[is_matched], "mismatched": factors[~is_matched]}
        points = shares(values, float(np.quantile(factors, 0.0005)), float(factors.max()))
        charts.append(
            figure(
                overlaid(points, {"matched": MATCHED, "mismatched": MISMATCHED}, "drift factor F"),
                title=f"Drift factors, {run.label}",
                text=f"Mean of matched pairs {values['matched'].mean():.3f}, of mismatched pairs "
                f"{values['mismatched'].mean():.3f}; AUC {auc[FACTOR]:.3f}; {where}.",
                data=(("factor from", *values), wide(points, list(values))),
                height=170,
            )
        )
    if rows:
        columns = ("run", "of", "AUC of S", "AUC of F", "AUC of S F")
        notes.append(table(columns, rows, caption="How well S, F and S F tell matched from mismatched", digits=3))
    return [*notes, grid(charts)] if charts else notes
