"""What can be chosen for every method: its loss, how a pair is judged, what becomes of the judgement.

`method` stands for the method's own choice, which its class names.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.contrastive import LOSSES, ContrastiveConfig
from runtime.flags import check_range, flag

OWN = "method"
PAIR, CONSENSUS = "pair", "consensus"
LABELS, POSTERIOR, REMATCH = "labels", "posterior", "rematch"
NETWORK, FEATURES = "network", "features"


@dataclass(frozen=True)
class ChoiceConfig(ContrastiveConfig):
    """Flags of the choices."""

    loss: str = flag(
        OWN,
        "training loss, warm-up included; method: hinge, of consensus bounded",
        choices=(OWN, *LOSSES),
    )
    signal: str = flag(
        OWN,
        "what divides clean from noisy: the pair alone, or also whether its neighbours agree (consensus); method: "
        "pair, of consensus consensus",
        choices=(OWN, PAIR, CONSENSUS),
    )
    refine: str = flag(
        OWN,
        "labels: the method's soft labels; posterior: the clean probability of clean pairs, noisy ones dropped; "
        "rematch: that, and noisy captions and images are offered new partners; method: labels, of consensus rematch",
        choices=(OWN, LABELS, POSTERIOR, REMATCH),
    )
    neighbours: int = flag(10, "k, nearest images and captions that --signal consensus asks about a pair")
    neighbour_votes: int = flag(2, "how many of the best agreeing neighbours count, with --signal consensus")
    neighbour_space: str = flag(
        NETWORK,
        "where images' neighbours are looked for: the network's vectors, or the mean of the raw features",
        choices=(NETWORK, FEATURES),
    )
    signal_memory: float = flag(
        0.3, "share of earlier divisions' consensus in each division's, in [0, 1): an exponential average over epochs"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "neighbours", low=1)
        check_range(self, "neighbour_votes", low=1)
        check_range(self, "signal_memory", low=0.0, high=1.0, high_open=True)
