"""What a fit of two Gaussian modes to the pairs' similarities found (DSDMR, TOIS 2024: a reconstruction)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from runtime.errors import InputError


@dataclass(frozen=True)
class Mode:
    """One Gaussian: its share of the pairs, mean and standard deviation, in units of the similarity."""

    weight: float
    mean: float
    std: float


@dataclass(frozen=True)
class SimilarityModes:
    """The two modes of n similarities.

    Attributes:
        noisy: mode of lower mean; not split: weight 0, mean and deviation of all pairs.
        clean: mode of higher mean; not split: weight 1, mean and deviation of all pairs.
        is_split: False: the guards found one mode, every pair is kept.
        note: "" or one line for people: why it was not split, or that the fit did not converge.
        separation: d' = (m_c - m_n) / sqrt((sd_c^2 + sd_n^2) / 2) of the two-mode fit, also if not split (*published*).
        overlap: Bhattacharyya coefficient of the two Gaussians without their weights, in [0, 1]; 0 if not split.
        bic_gain: BIC(one mode) - BIC(two modes); positive speaks for two.
        has_converged: the fit reached its tolerance.
        num_pairs: n.
    """

    noisy: Mode
    clean: Mode
    is_split: bool
    note: str
    separation: float
    overlap: float
    bic_gain: float
    has_converged: bool
    num_pairs: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; `from_dict` gives exactly these modes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SimilarityModes:
        """Return the modes that `as_dict` wrote.

        Raises:
            InputError: a field is missing or unknown.
        """
        for kind, given in ((cls, values), (Mode, values.get("noisy")), (Mode, values.get("clean"))):
            wrong = {field.name for field in dataclasses.fields(kind)} ^ set(given if isinstance(given, dict) else ())
            if wrong:
                raise InputError(
                    f"these are no similarity modes; missing or unknown fields: {', '.join(sorted(wrong))}"
                )
        return cls(**{**values, "noisy": Mode(**values["noisy"]), "clean": Mode(**values["clean"])})


def bhattacharyya(a: Mode, b: Mode) -> float:
    """Return the Bhattacharyya coefficient of two Gaussians, in [0, 1]; weights do not count.

    BC = sqrt(2 sd_a sd_b / (sd_a^2 + sd_b^2)) exp(-(m_a - m_b)^2 / (4 (sd_a^2 + sd_b^2))).
    """
    both = a.std**2 + b.std**2
    return math.sqrt(2 * a.std * b.std / both) * math.exp(-((a.mean - b.mean) ** 2) / (4 * both))
