"""DSDMR: similarity-distribution modelling and a dynamic-margin ranking loss (TOIS 2024). A reconstruction.

The similarities of the given pairs are modelled as two modes; the pairs of the lower one are dropped, the others are
trained on with margins that follow the modes, and the filter is fitted again. The authors' loss and trainer are
unpublished: margins, guards and pools are ours, and numbers are not a reproduction. In place of CLIP's zero-shot
similarity stands that of the network after warm-up.
Legend: B pairs of a batch, N training pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.blocks.dynamic_margin import MarginConfig, dynamic_margins
from methods.blocks.method import DivisionReport, Method, MethodConfig, Scored, SoftLabels, StudentAndPeer
from methods.blocks.modes import RefitConfig, SimilarityModes, clean_posterior, fit_similarity_modes, select
from models.losses import HINGE, Margins
from runtime.errors import InputError
from runtime.flags import flag

UNUSED = {
    "margin": "give --image_margin and --text_margin",
    "soft_margin": "margins follow --margin_policy",
    "fit_type": "the modes are two Gaussians",
}
"""Flags of other methods that would change nothing here, with what to do instead."""


@dataclass(frozen=True)
class DSDMRConfig(MethodConfig, RefitConfig, MarginConfig):
    """DSDMR's flags: its filter's, its margins', and whether it filters at all."""

    no_filter: bool = flag(
        False, "keep every pair: the modes set the margins only (the paper's ablation without its GMM)"
    )

    def __post_init__(self) -> None:
        for base in (MethodConfig, RefitConfig, MarginConfig):
            base.__post_init__(self)  # type: ignore[arg-type]
        for field in fields(MethodConfig):
            name, value = field.name, getattr(self, field.name)
            if name in UNUSED and value != field.default:
                raise InputError(f"--{name} {value} has no effect with --method dsdmr; {UNUSED[name]}")
        if self.loss != HINGE:
            for field in fields(MarginConfig):
                if getattr(self, field.name) != field.default:
                    raise InputError(f"--{field.name} has no effect with --loss {self.loss}, which knows no margin")


class DSDMR(Method):
    """One network; its own filter decides what it is trained on, and dropped pairs are not trained on at all."""

    Config = DSDMRConfig
    config: DSDMRConfig
    num_networks = 1
    trains_noisy = False

    def __init__(self, config: DSDMRConfig) -> None:
        super().__init__(config)
        self._modes: SimilarityModes | None = None

    def state(self) -> dict[str, Any]:
        return {"modes": None if self._modes is None else self._modes.as_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self._modes = None if state["modes"] is None else SimilarityModes.from_dict(state["modes"])

    def divides_in(self, epoch: int) -> bool:
        return epoch % self.config.refit_every == 0

    def pair_signal(self, scored: Scored) -> Tensor:
        """Return minus the similarity of each pair: the division signal is low for clean pairs."""
        return -scored.matched

    def diagnostics(self, scored: Scored) -> dict[str, Tensor]:
        return {"similarity": scored.matched}

    def clean_probability(self, signal: np.ndarray) -> np.ndarray:
        """Fit the two modes to the similarities of all pairs, so that dropped ones may return; return P(clean) (N,).

        Raises:
            InputError: there are too few pairs.
        """
        config = self.config
        self._modes = fit_similarity_modes(
            -signal, num_starts=config.mode_starts, min_separation=config.min_separation, bounded=False
        )
        return clean_posterior(-signal, self._modes, config.mode_prior)

    def divide(self, probability: np.ndarray) -> np.ndarray:
        """Return the pairs above the threshold; clean data is kept whole."""
        if self.config.no_filter:
            return np.ones(len(probability), dtype=bool)
        return select(probability, self.config.p_threshold)

    def report(self) -> DivisionReport:
        """Return the modes of the last filtering, their d' and overlap, the margins, and what the guards say."""
        modes = self._modes
        if modes is None:
            return DivisionReport()
        figures = {
            "mode_separation": modes.separation,
            "mode_overlap": modes.overlap,
            "bic_gain": modes.bic_gain,
            **{f"noisy_{name}": value for name, value in vars(modes.noisy).items()},
            **{f"clean_{name}": value for name, value in vars(modes.clean).items()},
        }
        if self.config.margin_policy != "posterior":
            margins = dynamic_margins(self.config, modes)
            figures |= {"image_margin": float(margins.image), "text_margin": float(margins.text)}
        assert all(math.isfinite(value) for value in figures.values())
        return DivisionReport(figures, modes.note)

    def refine(self, clean: StudentAndPeer, noisy: StudentAndPeer | None, probability: Tensor) -> SoftLabels:
        """Return the clean probability with `--margin_policy posterior`, else label 1."""
        is_scaled = self.config.margin_policy == "posterior"
        return SoftLabels(clean=probability if is_scaled else torch.ones_like(probability))

    def margins(self, labels: Tensor | None) -> Margins:
        """Return the base margins without labels (warm-up), else those of the policy."""
        if labels is None:
            return Margins(self.config.image_margin, self.config.text_margin)
        return dynamic_margins(self.config, self._modes, labels)


METHOD = DSDMR
