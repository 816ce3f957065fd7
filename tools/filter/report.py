"""What a filter leaves behind: files for programs, tables and a picture for people.

The picture is the histogram of the pairs' similarities with the two fitted modes and where kept pairs begin. Its
colours are those of Okabe and Ito, which readers with any kind of colour vision tell apart. Legend: n pairs.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from methods.blocks.modes import Mode
from runtime.files import write_json
from runtime.log import table
from tools.filter.filtering import FilterConfig, Filtered, filter_quality

PAIRS_CSV, PROBABILITY, INDEX = "clean_probability.csv", "clean_probability.npy", "clean_index.npy"
MODES, PICTURE = "modes.json", "modes.png"
CSV_ROWS = 65536
"""Rows of the CSV that are text in memory at a time."""
GREY, BLUE, ORANGE, SKY, SAND = "#bbbbbb", "#0072b2", "#d55e00", "#9fd0f0", "#f2c79b"
SIZE_INCHES, DPI = (9.6, 5.4), 120


def cut_of(found: Filtered) -> float | None:
    """Return the lowest similarity of a kept pair; None if the modes do not split the pairs."""
    return float(found.similarity[found.is_clean].min()) if found.modes.is_split else None


# -- tables ---------------------------------------------------------------------------------------------------------


def percent(share: float | None) -> str:
    """Return a share as text, `-` where it is undefined."""
    return "-" if share is None else f"{100 * share:.2f}"


def filter_text(found: Filtered, filtering: FilterConfig) -> str:
    """Return lines that tell the modes, and how many pairs are kept from where on."""
    modes, kept, cut = found.modes, int(found.is_clean.sum()), cut_of(found)
    shown = {"noisy": modes.noisy, "clean": modes.clean} if modes.is_split else {"all": modes.clean}
    rows = [[name, f"{100 * m.weight:.1f}", f"{m.mean:.4f}", f"{m.std:.4f}"] for name, m in shown.items()]
    lines = [table(["mode", "pairs %", "mean", "deviation"], rows)]
    if modes.is_split:
        lines.append(f"the modes lie {modes.separation:.2f} deviations apart (d'), overlap {modes.overlap:.3f}")
    if modes.note:
        lines.append(f"warning: {modes.note}")
    where = "" if cut is None else f": similarity from {cut:.4f} on (prior {filtering.mode_prior})"
    lines.append(f"kept {kept} of {modes.num_pairs} pairs, {100 * kept / modes.num_pairs:.1f} %{where}")
    return "\n".join(lines)


def quality_text(qualities: dict[str, dict[str, Any]]) -> str:
    """Return a table of how good filters were, a row each; see `filter_quality`."""
    header = ["similarities", "noise %", "residual noise %", "precision %", "recall %", "AUC"]
    rows = []
    for name, quality in qualities.items():
        shares = (percent(quality[key]) for key in ("noise", "residual_noise", "precision", "recall"))
        rows.append([name, *shares, "-" if quality["auc"] is None else f"{quality['auc']:.4f}"])
    return table(header, rows)


# -- the picture ----------------------------------------------------------------------------------------------------


def _edges(similarity: np.ndarray) -> np.ndarray:
    """Return the bins' edges: as many bins as the data carry (3 n^(1/3)), 20 to 120 of them."""
    low, high = float(similarity.min()), float(similarity.max())
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    return np.linspace(low, high, int(np.clip(3 * len(similarity) ** (1 / 3), 20, 120)) + 1)


def _curve(mode: Mode, x: np.ndarray, scale: float) -> np.ndarray:
    """Return weight * density * scale at x; a mode without a width is a peak that no grid shows."""
    if mode.std <= 0:
        return np.zeros_like(x)
    return scale * mode.weight * np.exp(-(((x - mode.mean) / mode.std) ** 2) / 2) / (mode.std * np.sqrt(2 * np.pi))


def draw_modes(path: Path, found: Filtered, filtering: FilterConfig, is_matched: np.ndarray | None = None) -> None:
    """Write the picture as a PNG; with the truth (n,) bool, matched and mismatched pairs stand on top of each other."""
    similarity, modes, cut = found.similarity, found.modes, cut_of(found)
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    edges = _edges(similarity)
    counts = np.histogram(similarity, edges)[0]
    if is_matched is None:
        axes.stairs(counts, edges, fill=True, color=GREY, label=f"{len(similarity):,} pairs")
    else:
        wrong, right = np.histogram(similarity[~is_matched], edges)[0], int(is_matched.sum())
        axes.stairs(wrong, edges, fill=True, color=SAND, label=f"{len(similarity) - right:,} truly mismatched")
        axes.stairs(counts, edges, baseline=wrong, fill=True, color=SKY, label=f"{right:,} truly matched")
    pad = 0.04 * (edges[-1] - edges[0])
    x, scale = np.linspace(edges[0] - pad, edges[-1] + pad, 801), len(similarity) * (edges[1] - edges[0])

    def draw_mode(name: str, mode: Mode, **style: Any) -> np.ndarray:
        curve = _curve(mode, x, scale)
        label = f"{name}: {mode.mean:.3f} ± {mode.std:.3f}, {100 * mode.weight:.1f} %"
        axes.plot(x, curve, linewidth=2.2, label=label, **style)
        return curve

    if modes.is_split:
        noisy = draw_mode("noisy", modes.noisy, color=ORANGE, linestyle="--")
        both = noisy + draw_mode("clean", modes.clean, color=BLUE)
        axes.plot(x, both, color="black", linestyle=":", linewidth=1.6, label="both modes")
    else:
        draw_mode("one mode, all kept", modes.clean, color=BLUE)
    if cut is not None:
        label = f"kept from {cut:.3f} on (p > {filtering.p_threshold:g}, prior {filtering.mode_prior})"
        axes.axvline(cut, color="black", linewidth=1.4, label=label)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(bottom=0)
    axes.margins(y=0.06)
    axes.set_xlabel("similarity of the given pair (cosine)", fontsize=12)
    axes.set_ylabel(f"pairs per bin of {edges[1] - edges[0]:.3g}", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=10.5, columnspacing=1.4)
    figure.savefig(path, format="png", metadata={"Software": None})


# -- files ----------------------------------------------------------------------------------------------------------


def _write_pairs(path: Path, found: Filtered) -> None:
    """Write `pair,similarity,clean_probability,is_clean`, a line a pair, numbers so that they read back exactly."""
    with open(path, "w", encoding="ascii", newline="\n") as file:
        file.write("pair,similarity,clean_probability,is_clean\n")
        for start in range(0, len(found.similarity), CSV_ROWS):
            columns = (found.similarity, found.probability, found.is_clean)
            rows = zip(*(column[start : start + CSV_ROWS].tolist() for column in columns), strict=True)
            file.writelines(f"{start + k},{s!r},{p!r},{c:d}\n" for k, (s, p, c) in enumerate(rows))


def write_filter(
    folder: Path, found: Filtered, filtering: FilterConfig, *, is_matched: np.ndarray | None, source: dict[str, Any]
) -> None:
    """Write the filter's files.

    Args:
        folder: where to.
        found: what the filter said to n pairs.
        filtering: its flags.
        is_matched: (n,) the truth, if it is known.
        source: what was read, for the record.
    """
    np.save(folder / PROBABILITY, found.probability)
    np.save(folder / INDEX, np.flatnonzero(found.is_clean).astype(np.int64))
    _write_pairs(folder / PAIRS_CSV, found)
    draw_modes(folder / PICTURE, found, filtering, is_matched)
    record = {
        "modes": found.modes.as_dict(),
        "kept_from": cut_of(found),
        "num_kept": int(found.is_clean.sum()),
        "quality": None if is_matched is None else filter_quality(found.is_clean, found.probability, is_matched),
        "filter": asdict(filtering),
        "source": source,
    }
    write_json(folder / MODES, record)
