"""The contract: what differs between the methods, and nothing else.

One `Method` object belongs to one network (it may remember that network's last division pass). The trainer asks it for
the scores that the hinge sees, the signal that divides clean from noisy, the soft labels and the loss.
Legend: B pairs of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from data_utils.loaders import Batch
from methods.blocks.mixture import FITS, Fitted, divide, fit, probability_under
from models.losses import (
    BOUND,
    HINGE,
    LOSSES,
    SMALLEST_BOUND,
    SOFT_MARGINS,
    ContrastiveConfig,
    Margins,
    contrastive_costs,
    hardest_negative,
    mean_over_negatives,
    negatives,
    pair_costs,
    soft_margin,
)
from models.matcher import Embeddings, Matcher, evaluating
from runtime.flags import check_range, flag

PAIR, CONSENSUS = "pair", "consensus"
LABELS, POSTERIOR, REMATCH = "labels", "posterior", "rematch"
NETWORK, FEATURES = "network", "features"


@dataclass(frozen=True)
class MethodConfig(ContrastiveConfig):
    """Flags that every method understands. A method's own defaults of them are its `Method.defaults`."""

    loss: str = flag(HINGE, "training loss, warm-up included", choices=LOSSES)
    signal: str = flag(
        PAIR,
        "what divides clean from noisy: the pair alone, or also whether its neighbours agree (consensus)",
        choices=(PAIR, CONSENSUS),
    )
    refine: str = flag(
        LABELS,
        "labels: the method's soft labels; posterior: the clean probability of clean pairs, noisy ones dropped; "
        "rematch: that, and noisy captions and images are offered new partners",
        choices=(LABELS, POSTERIOR, REMATCH),
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
    margin: float = flag(0.2, "margin a1 of the triplet hinge")
    soft_margin: str = flag("exponential", "how a soft label scales the margin", choices=SOFT_MARGINS)
    mask_same_image: bool = flag(True, "captions of the anchor's own image are no negatives (off: as published)")
    fit_type: str = flag("gmm", "mixture that divides clean from noisy", choices=FITS)
    p_threshold: float = flag(0.5, "a pair is clean if its clean probability is above this")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "neighbours", low=1)
        check_range(self, "neighbour_votes", low=1)
        check_range(self, "signal_memory", low=0.0, high=1.0, high_open=True)
        check_range(self, "margin", low=0.0)
        check_range(self, "p_threshold", low=0.0, high=1.0, high_open=True)


class Scored:
    """A batch as one network sees it, without gradient; encoded and scored when first asked for, then kept.

    The matcher looks in eval mode; its train mode is restored. `encoded` is the batch's embeddings, if they are there
    already.
    """

    def __init__(self, matcher: Matcher, method: Method, batch: Batch, encoded: Embeddings | None = None) -> None:
        self._matcher, self._method, self._encoded = matcher, method, encoded
        self.batch = batch

    @cached_property
    def embeddings(self) -> Embeddings:
        """Encoded images and captions."""
        if self._encoded is not None:
            return self._encoded
        with evaluating(self._matcher):
            return self._matcher.embed(self.batch)

    @cached_property
    def sims(self) -> Tensor:
        """(B, B) plain similarities."""
        with evaluating(self._matcher):
            return self._matcher.score(self.embeddings)

    @cached_property
    def matched(self) -> Tensor:
        """(B,) plain similarities of the given pairs alone."""
        if "sims" in vars(self):
            return self.sims.diagonal()
        with evaluating(self._matcher):
            return self._matcher.score_given(self.embeddings)

    @cached_property
    def scores(self) -> Tensor:
        """(B, B) what this network's method lets the hinge see."""
        with torch.no_grad():
            return self._method.scores(self.sims, self.embeddings, self.batch)


@dataclass(frozen=True)
class StudentAndPeer:
    """One batch seen by the network in training and by its peer (the same network without co-training)."""

    student: Scored
    peer: Scored


@dataclass(frozen=True)
class SoftLabels:
    """Correspondence labels in [0, 1].

    Attributes:
        clean: (B,) labels of the clean batch.
        noisy: labels of the noisy batch, None if there is none.
        noisy_kept: bool, the noisy pairs that enter the loss.
    """

    clean: Tensor
    noisy: Tensor | None = None
    noisy_kept: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.clean.dim() == 1
        assert self.noisy is None or (self.noisy.dim() == 1 and self.noisy_kept is not None)


@dataclass(frozen=True)
class DivisionReport:
    """What a division found besides probabilities.

    Attributes:
        figures: named finite numbers for the log.
        warning: one line for people, or "".
        fitted: the mixture of the signal, if one was fitted.
    """

    figures: dict[str, float] = field(default_factory=dict)
    warning: str = ""
    fitted: Fitted | None = None


@dataclass(frozen=True)
class Bank:
    """One network's pooled vectors of the training set, one row an image.

    Attributes:
        image_global: (images, D), f.
        drift: (images, D), f minus the mean g of the captions given to the image.
        image_id: (images,).
    """

    image_global: Tensor
    drift: Tensor
    image_id: Tensor


class Method:
    """Base: divide by each pair's loss over all negatives. `refine` must be overridden, the rest may be.

    Attributes:
        share_noisy: estimated share of mismatched pairs among all given ones, if there is an estimate: in training that
            of the peer's division, during a division that of the own last one.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    config: MethodConfig
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Flag -> its default with this method, where the paper or the public code wants another than the suite's. Epochs,
    batch sizes and learning rates go with the data: they are in recipes."""
    num_networks: ClassVar[int] = 2
    divides: ClassVar[bool] = True
    """False: no division; every pair is trained on as it is."""
    trains_noisy: ClassVar[bool] = True
    """False: the noisy side is dropped."""

    def __init__(self, config: MethodConfig) -> None:
        self.config = config
        self.share_noisy: float | None = None
        self._fitted: Fitted | None = None

    @property
    def bound(self) -> float:
        """q of the bounded losses: --bound, or the estimated share of mismatched pairs."""
        if self.config.bound is not None:
            return self.config.bound
        return BOUND if self.share_noisy is None else min(1.0, max(SMALLEST_BOUND, self.share_noisy))

    @property
    def needs_neighbours(self) -> bool:
        """Whether a division looks at the pairs' neighbours."""
        return self.config.signal == CONSENSUS or self.config.refine == REMATCH

    @property
    def wants_noisy(self) -> bool:
        """Whether the noisy side is trained on as it is."""
        return self.trains_noisy and self.config.refine == LABELS

    @property
    def needs_bank(self) -> bool:
        """Whether `remember` wants a fresh bank before each division."""
        return False

    def remember(self, bank: Bank) -> None:
        """Keep the pooled vectors of the training set; only called if `needs_bank`."""

    def state(self) -> dict[str, Any]:
        """Return what this object remembers from one step of the run to the next: tensors and plain values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Remember what `state`, of an object of the same configuration, remembered."""

    def scores(self, sims: Tensor, embeddings: Embeddings, batch: Batch) -> Tensor:
        """Return (B, B), what the loss sees after warm-up: the plain similarities, which warm-up always sees."""
        return sims

    def image_groups(self, batch: Batch) -> Tensor | None:
        """Return the image numbers (B,) if captions of one image are no negatives of each other, else None."""
        return batch.image_id if self.config.mask_same_image else None

    def margins(self, labels: Tensor | None) -> Margins:
        """Return the margins of both anchors: `--margin`, scaled by the soft labels (B,) if there are any."""
        margin = self.config.margin
        soft = margin if labels is None else soft_margin(labels, margin, self.config.soft_margin)
        return Margins(soft, soft)

    def per_pair_loss(
        self, scores: Tensor, batch: Batch, labels: Tensor | None = None, hardness: float = 0.0
    ) -> Tensor:
        """Return each pair's cost (B,) under `--loss`.

        Args:
            scores: (B, B).
            batch: the pairs.
            labels: (B,) soft labels, which scale the hinge's margin or a contrastive cost; None: all are 1.
            hardness: 0 takes all negatives, 1 the hardest, between mixes the two.
        """
        if self.config.loss != HINGE:
            is_negative = negatives(len(scores), self.image_groups(batch), scores.device)
            contrasts = contrastive_costs(
                scores,
                self.config.loss,
                is_negative,
                temperature=self.config.temperature,
                bound=self.bound,
                hardness=hardness,
            )
            return contrasts if labels is None else labels.to(contrasts.dtype) * contrasts
        margins = self.margins(labels)
        costs = pair_costs(scores, margins.image, self.image_groups(batch), caption_margin=margins.text)
        if hardness == 0.0:
            return mean_over_negatives(costs)
        if hardness == 1.0:
            return hardest_negative(costs)
        return (1 - hardness) * mean_over_negatives(costs) + hardness * hardest_negative(costs)

    def loss(
        self, scores: Tensor, batch: Batch, labels: Tensor, *, kept: Tensor | None = None, hardness: float = 1.0
    ) -> Tensor:
        """Return the training loss, summed over the kept pairs (all of them if None)."""
        losses = self.per_pair_loss(scores, batch, labels, hardness)
        return losses.sum() if kept is None else losses[kept].sum()

    def pair_signal(self, scored: Scored) -> Tensor:
        """Return the division signal of each pair (B,): low for clean pairs."""
        return self.per_pair_loss(scored.sims, scored.batch)

    def diagnostics(self, scored: Scored) -> dict[str, Tensor]:
        """Return named per-pair values (B,), high for clean pairs, to be logged beside the truth where it is known."""
        return {"similarity": scored.sims.diagonal()}

    def clean_probability(self, signal: np.ndarray) -> np.ndarray:
        """Return each pair's probability to be clean, non-increasing in the signal.

        It may be asked twice for a division; `divide`, which is asked once, keeps what the next division depends on.
        """
        self._fitted = fit(signal, self.config.fit_type)
        return probability_under(self._fitted, signal, monotone=True)

    def divide(self, probability: np.ndarray) -> np.ndarray:
        """Return which pairs are clean, (n,) bool."""
        return divide(probability, self.config.p_threshold)

    def divides_in(self, epoch: int) -> bool:
        """Tell whether pairs are divided anew before this epoch (0: the first after warm-up, which always is)."""
        return True

    def report(self) -> DivisionReport:
        """Return what else the last `clean_probability` found."""
        return DivisionReport(fitted=self._fitted)

    def labels(self, clean: StudentAndPeer, noisy: StudentAndPeer | None, probability: Tensor) -> SoftLabels:
        """Return soft labels by `--refine`: the method's own, or the clean probability; arguments as of `refine`."""
        return self.refine(clean, noisy, probability) if self.config.refine == LABELS else SoftLabels(clean=probability)

    def refine(self, clean: StudentAndPeer, noisy: StudentAndPeer | None, probability: Tensor) -> SoftLabels:
        """Return soft labels for a clean batch and, from `--noisy_start` on, a noisy one.

        Args:
            clean: the clean batch as student and peer see it.
            noisy: the noisy batch likewise, or None.
            probability: (B,) clean probability of the clean batch's pairs.
        """
        raise NotImplementedError
