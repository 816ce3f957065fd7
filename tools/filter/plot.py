"""The picture of the filter: histogram of the pairs' similarities, the two fitted modes, the boundary between them.

Colours are those of Okabe and Ito, which readers with any kind of colour vision tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from methods.blocks.similarity_modes import Mode, SimilarityModes

GREY, BLUE, ORANGE, SKY, SAND = "#bbbbbb", "#0072b2", "#d55e00", "#9fd0f0", "#f2c79b"
SIZE_INCHES, DPI = (9.6, 5.4), 120
BISECTIONS = 60


def boundary(probability_at: Callable[[np.ndarray], np.ndarray], threshold: float) -> float | None:
    """Return the similarity in [-1, 1] above which pairs are kept, None if all or none are.

    Args:
        probability_at: similarities (n,) -> clean probability (n,), non-decreasing.
        threshold: pairs of a larger clean probability are kept.
    """
    low, high = -1.0, 1.0
    is_kept = probability_at(np.array([low, high])) > threshold
    if is_kept[0] or not is_kept[1]:
        return None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if probability_at(np.array([middle]))[0] > threshold else (middle, high)
    return high


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


def _bars(axes: Axes, similarity: np.ndarray, edges: np.ndarray, is_matched: np.ndarray | None) -> None:
    """Draw the histogram, with the truth as two sides on top of each other."""
    if is_matched is None:
        axes.stairs(
            np.histogram(similarity, edges)[0], edges, fill=True, color=GREY, label=f"{len(similarity):,} pairs"
        )
        return
    wrong = np.histogram(similarity[~is_matched], edges)[0]
    right = np.histogram(similarity[is_matched], edges)[0]
    num_wrong, num_right = len(similarity) - int(is_matched.sum()), int(is_matched.sum())
    axes.stairs(wrong, edges, fill=True, color=SAND, label=f"{num_wrong:,} truly mismatched")
    axes.stairs(wrong + right, edges, baseline=wrong, fill=True, color=SKY, label=f"{num_right:,} truly matched")


def draw_modes(
    path: Path,
    similarity: np.ndarray,
    modes: SimilarityModes,
    *,
    cut: float | None,
    cut_label: str,
    is_matched: np.ndarray | None = None,
) -> None:
    """Write the picture as a PNG.

    Args:
        path: where to.
        similarity: (n,).
        modes: as fitted to them.
        cut: where the clean probability crosses the threshold, if it does.
        cut_label: what the boundary stands for, for the legend.
        is_matched: (n,) bool, the truth if it is known.
    """
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    edges = _edges(similarity)
    _bars(axes, similarity, edges, is_matched)
    pad = 0.04 * (edges[-1] - edges[0])
    x = np.linspace(edges[0] - pad, edges[-1] + pad, 801)
    scale = len(similarity) * (edges[1] - edges[0])
    if modes.is_split:
        noisy, clean = _curve(modes.noisy, x, scale), _curve(modes.clean, x, scale)
        axes.plot(x, noisy, color=ORANGE, linestyle="--", linewidth=2.2, label=_mode_label("noisy", modes.noisy))
        axes.plot(x, clean, color=BLUE, linewidth=2.2, label=_mode_label("clean", modes.clean))
        axes.plot(x, noisy + clean, color="black", linestyle=":", linewidth=1.6, label="both modes")
    else:
        label = _mode_label("one mode, all kept", modes.clean)
        axes.plot(x, _curve(modes.clean, x, scale), color=BLUE, linewidth=2.2, label=label)
    if cut is not None:
        axes.axvline(cut, color="black", linewidth=1.4, label=f"kept above {cut:.3f} ({cut_label})")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(bottom=0)
    axes.margins(y=0.06)
    axes.set_xlabel("similarity of the given pair (cosine)", fontsize=12)
    axes.set_ylabel(f"pairs per bin of {edges[1] - edges[0]:.3g}", fontsize=12)
    axes.tick_params(labelsize=11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=10.5, columnspacing=1.4)
    figure.savefig(path, format="png", metadata={"Software": None})


def _mode_label(name: str, mode: Mode) -> str:
    return f"{name}: {mode.mean:.3f} ± {mode.std:.3f}, {100 * mode.weight:.1f} %"
