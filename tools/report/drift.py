"""Section: semantic drift (MGCS, AAAI 2026): its dispersion, and the drift factors of the training pairs."""

from __future__ import annotations

from tools.pages.text import Piece, heading
from tools.report.dispersion import dispersion_part
from tools.report.factors import factors_part
from tools.report.opened import OpenedRun
from tools.report.runs import Run


def drift_section(runs: list[Run], all_opened: list[OpenedRun]) -> list[Piece]:
    """Return dispersion and drift factors."""
    pieces: list[Piece] = [
        "A pair's drift is f - g, the pooled vector of its image minus that of its caption. MGCS assumes that the "
        "drifts of one image's captions are alike (low dispersion), and that a mismatched pair drifts another way (low "
        "factor)."
    ]
    if all_opened:
        pieces += [heading("Dispersion"), *dispersion_part(all_opened)]
    return [*pieces, heading("Drift factors"), *factors_part(runs, all_opened)]
