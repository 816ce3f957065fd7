"""DSDMR's dynamic margins (TOIS 2024): a reconstruction.

*Published*: a triplet ranking loss whose margin follows the two modes of the pairs' similarities, with base margins 0.3
(image anchors) and 0.2 (caption anchors). The loss itself is unpublished: each formula of a margin below is *ours*, and
numbers are not a reproduction. The modes are refitted from time to time; no gradient goes through a margin.
Legend: B pairs, a a base margin.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from methods.blocks.modes import SimilarityModes
from models.losses import Margins
from runtime.flags import check_choices, check_range, flag

POLICIES = ("fixed", "separation", "posterior")
"""`--margin_policy`."""


@dataclass(frozen=True)
class MarginConfig:
    """Flags of the margins. Margins are in units of the score: cosine, or what the similarity module returns."""

    margin_policy: str = flag(
        "separation",
        "fixed: base margins; separation: wider the more the two modes overlap; posterior: times a pair's clean "
        "probability",
        choices=POLICIES,
    )
    image_margin: float = flag(0.3, "base margin of image anchors, in units of the score")
    text_margin: float = flag(0.2, "base margin of caption anchors, in units of the score")
    margin_kappa: float = flag(1.0, "policy separation: margin = base * (1 + kappa * overlap of the modes)")
    margin_min: float = flag(0.05, "policy separation: no margin is below this")
    margin_max: float = flag(0.6, "policy separation: no margin is above this")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("image_margin", "text_margin", "margin_kappa", "margin_min"):
            check_range(self, name, low=0.0, high=float("inf"), high_open=True)
        check_range(self, "margin_max", low=self.margin_min, high=float("inf"), high_open=True)


def dynamic_margins(config: MarginConfig, modes: SimilarityModes | None, probability: Tensor | None = None) -> Margins:
    """Return the margins that `--margin_policy` gives for these modes.

    separation: clip(a (1 + kappa BC), min, max), with BC the Bhattacharyya coefficient of the two modes. posterior:
    a P(clean | s_i), (B,) one for each pair, within [0, a].

    Args:
        config: policy, base margins and bounds.
        modes: the last fit; None before the first one. Without two modes, the base margins.
        probability: (B,) clean probability of the batch's pairs, for policy posterior; no gradient goes through it.

    Raises:
        ValueError: policy posterior without a probability.

    Source: base margins published (DSDMR, TOIS 2024), the rules *ours*.
    """
    image, text = config.image_margin, config.text_margin
    if modes is None or not modes.is_split or config.margin_policy == "fixed":
        return Margins(image, text)
    if config.margin_policy == "posterior":
        if probability is None:
            raise ValueError("--margin_policy posterior needs the clean probability (B,) of the batch's pairs")
        assert probability.dim() == 1
        share = probability.detach()
        return Margins(image * share, text * share)
    factor, low, high = 1 + config.margin_kappa * modes.overlap, config.margin_min, config.margin_max
    return Margins(*(min(max(base * factor, low), high) for base in (image, text)))
