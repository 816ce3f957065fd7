"""What can be chosen for every method: its loss, how a pair is judged, what becomes of the judgement.

`method` stands for the method's own choice, which its class names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from models.losses import BOUND, HINGE, LOSSES, SMALLEST_BOUND, ContrastiveConfig
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
    neighbours: int = flag(10, "k, nearest images and captions that are asked about a pair")
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


class Choices:
    """What is chosen, with the method's own choices in the place of `method`.

    Attributes:
        share_noisy: estimated share of mismatched pairs among those that are trained on now, if there is an estimate.
    """

    own_loss: ClassVar[str] = HINGE
    own_signal: ClassVar[str] = PAIR
    own_refine: ClassVar[str] = LABELS
    """What `--loss method`, `--signal method` and `--refine method` stand for."""

    config: ChoiceConfig
    share_noisy: float | None = None

    @property
    def loss_name(self) -> str:
        """The training loss, a member of `models.contrastive.LOSSES`."""
        return self.own_loss if self.config.loss == OWN else self.config.loss

    @property
    def bound(self) -> float:
        """q of the bounded losses."""
        if self.config.bound is not None:
            return self.config.bound
        return BOUND if self.share_noisy is None else min(1.0, max(SMALLEST_BOUND, self.share_noisy))

    @property
    def asks_neighbours(self) -> bool:
        """Whether the division signal is a consensus with a pair's neighbours."""
        return (self.own_signal if self.config.signal == OWN else self.config.signal) == CONSENSUS

    @property
    def needs_neighbours(self) -> bool:
        """Whether a division looks at neighbours at all."""
        return self.asks_neighbours or self.refinement == REMATCH

    @property
    def refinement(self) -> str:
        """What becomes of the division: LABELS, POSTERIOR or REMATCH."""
        return self.own_refine if self.config.refine == OWN else self.config.refine
