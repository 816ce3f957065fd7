"""What a filter leaves behind: files for programs, tables and a picture for people."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from methods.blocks.similarity_modes import Mode, clean_posterior
from runtime.checkpoint import write_json
from runtime.log import table
from tools.filter.adapter import EpochRecord
from tools.filter.filtering import FilterConfig, Filtered, filter_quality
from tools.filter.output import write_pairs
from tools.filter.plot import boundary, draw_modes

PAIRS_CSV, PROBABILITY, INDEX = "clean_probability.csv", "clean_probability.npy", "clean_index.npy"
MODES, PICTURE = "modes.json", "modes.png"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _mode_row(name: str, mode: Mode) -> list[str]:
    return [name, f"{100 * mode.weight:.1f}", f"{mode.mean:.4f}", f"{mode.std:.4f}"]


def cut_of(found: Filtered, filtering: FilterConfig) -> float | None:
    """Return the similarity from which on pairs are kept; None if the modes do not split them."""
    if not found.modes.is_split:
        return None
    return boundary(lambda s: clean_posterior(s, found.modes, filtering.mode_prior), filtering.p_threshold)


def filter_text(found: Filtered, filtering: FilterConfig) -> str:
    """Return lines that tell the modes, and how many pairs are kept from where on."""
    modes, kept, cut = found.modes, int(found.is_clean.sum()), cut_of(found, filtering)
    rows = [_mode_row("noisy", modes.noisy), _mode_row("clean", modes.clean)]
    lines = [
        table(["mode", "pairs %", "mean", "deviation"], rows if modes.is_split else [_mode_row("all", modes.clean)])
    ]
    if modes.is_split:
        lines.append(f"the modes lie {modes.separation:.2f} deviations apart (d'), overlap {modes.overlap:.3f}")
    if modes.note:
        lines.append(f"warning: {modes.note}")
    where = "" if cut is None else f": similarity above {cut:.4f} (prior {filtering.mode_prior})"
    lines.append(f"kept {kept} of {modes.num_pairs} pairs, {100 * kept / modes.num_pairs:.1f} %{where}")
    return "\n".join(lines)


def quality_text(qualities: dict[str, dict[str, Any]]) -> str:
    """Return a table of how good filters were, a row each; see `filter_quality`."""
    header = ["similarities", "noise %", "residual noise %", "precision %", "recall %", "AUC"]
    rows = []
    for name, quality in qualities.items():
        shares = (_percent(quality[key]) for key in ("noise", "residual_noise", "precision", "recall"))
        rows.append([name, *shares, "-" if quality["auc"] is None else f"{quality['auc']:.4f}"])
    return table(header, rows)


def epoch_text(record: EpochRecord, num_epochs: int, quality: dict[str, Any] | None) -> str:
    """Return a line about an epoch of the adapter."""
    modes = record.found.modes
    state = f"d' {modes.separation:.2f}, overlap {modes.overlap:.3f}" if modes.is_split else "one mode"
    noise = "" if quality is None else f", residual noise {_percent(quality['residual_noise'])} %"
    return (
        f"epoch {record.epoch}/{num_epochs}: kept {int(record.found.is_clean.sum())} of {modes.num_pairs}{noise}, "
        f"{state}, margins {record.margins.image:.3f} {record.margins.text:.3f}, loss {record.loss:.4f}"
    )


def write_filter(
    folder: Path,
    similarity: np.ndarray,
    found: Filtered,
    filtering: FilterConfig,
    *,
    is_matched: np.ndarray | None,
    source: dict[str, Any],
) -> None:
    """Write the filter's files.

    Args:
        folder: where to.
        similarity: (n,).
        found: what the filter said to them.
        filtering: its flags.
        is_matched: (n,) the truth, if it is known.
        source: what was read, for the record.
    """
    cut = cut_of(found, filtering)
    np.save(folder / PROBABILITY, found.probability)
    np.save(folder / INDEX, np.flatnonzero(found.is_clean).astype(np.int64))
    write_pairs(folder / PAIRS_CSV, similarity, found.probability, found.is_clean)
    label = f"p > {filtering.p_threshold:g}, prior {filtering.mode_prior}"
    draw_modes(folder / PICTURE, similarity, found.modes, cut=cut, cut_label=label, is_matched=is_matched)
    record = {
        "modes": found.modes.as_dict(),
        "boundary": cut,
        "num_kept": int(found.is_clean.sum()),
        "quality": None if is_matched is None else filter_quality(found.is_clean, found.probability, is_matched),
        "filter": asdict(filtering),
        "source": source,
    }
    write_json(folder / MODES, record)
