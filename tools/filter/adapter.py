"""A small residual adapter on frozen embeddings, trained with DSDMR's loop: filter, train on the rest, filter again.

f'(x) = x + W2 gelu(W1 x) for images and g' alike for captions, on rows of length 1; W2 starts at zero, so that nothing
has changed before the first step. *Published* (DSDMR, TOIS 2024) is the loop; the adapter and the loss are *ours*.
Legend: I images, C captions = pairs, D dimensions, H hidden size, B pairs of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.blocks.dynamic_margin import DynamicMarginRankingLoss, MarginConfig, dynamic_margins
from models.losses import Margins
from runtime.checkpoint import save_checkpoint
from runtime.errors import InputError
from runtime.flags import check_range, flag
from runtime.log import Progress
from runtime.seed import generator
from tools.filter.filtering import FilterConfig, Filtered, filter_pairs, similarity_of


@dataclass(frozen=True)
class AdapterConfig:
    """Flags of the adapter's training."""

    adapt: bool = flag(False, "train a residual adapter on the kept pairs, filtering again as it learns")
    num_epochs: int = flag(20, "epochs of the adapter")
    batch_size: int = flag(128, "pairs a batch, among which the hardest negatives are looked for")
    learning_rate: float = flag(1e-3, "learning rate of Adam")
    hidden_size: int = flag(256, "width of the adapter's hidden layer")
    refit_every: int = flag(1, "epochs between filterings")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")

    def __post_init__(self) -> None:
        for name in ("num_epochs", "hidden_size", "refit_every"):
            check_range(self, name, low=1)
        check_range(self, "batch_size", low=2)
        check_range(self, "learning_rate", low=1e-12, high=1.0)


class ResidualAdapter(nn.Module):
    """x + W2 gelu(W1 x), scaled to length 1.

    Args:
        dim: D.
        hidden_size: H.
        random: draws W1; W2 is zero.
    """

    def __init__(self, dim: int, hidden_size: int, random: torch.Generator) -> None:
        super().__init__()
        bound = math.sqrt(3 / dim)  # rows of length 1 then give hidden values of variance 1 / dim
        self.inner = nn.Parameter(torch.empty(hidden_size, dim).uniform_(-bound, bound, generator=random))
        self.outer = nn.Parameter(torch.zeros(dim, hidden_size))

    def forward(self, rows: Tensor) -> Tensor:
        """Return adapted rows (B, D) of length 1, of rows (B, D) of length 1."""
        return F.normalize(rows + F.gelu(rows @ self.inner.t()) @ self.outer.t(), dim=1)


@dataclass(frozen=True)
class Adapted:
    """Rows of length 1 seen through an adapter, computed in blocks when they are read."""

    adapter: ResidualAdapter
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, D)."""
        return self.rows.shape

    @torch.no_grad()
    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return adapted rows, float32, by slice or by number."""
        return self.adapter(_tensor(self.rows[rows], self.adapter)).cpu().numpy()


def _tensor(rows: np.ndarray, adapter: ResidualAdapter) -> Tensor:
    return torch.from_numpy(np.array(rows)).to(adapter.inner.device)


@dataclass(frozen=True)
class EpochRecord:
    """What happened in an epoch.

    Attributes:
        epoch: from 1 on.
        loss: mean over the kept pairs.
        found: what the filter it trained by said to the training pairs.
        margins: base margins of both directions.
    """

    epoch: int
    loss: float
    found: Filtered
    margins: Margins

    def text(self, num_epochs: int, noise: str) -> str:
        """Return a line for people; `noise` tells what is known of the kept pairs."""
        modes, kept = self.found.modes, int(self.found.is_clean.sum())
        state = f"d' {modes.separation:.2f}, overlap {modes.overlap:.3f}" if modes.is_split else "one mode"
        return (
            f"epoch {self.epoch}/{num_epochs}: kept {kept} of {modes.num_pairs}{noise}, {state}, "
            f"margins {self.margins.image:.3f} {self.margins.text:.3f}, loss {self.loss:.4f}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain types, for JSON."""
        return {
            "epoch": self.epoch,
            "loss": self.loss,
            "num_kept": int(self.found.is_clean.sum()),
            "modes": self.found.modes.as_dict(),
            "image_margin": float(self.margins.image),
            "text_margin": float(self.margins.text),
        }


class AdapterTraining:
    """Two adapters, and the pairs they learn from.

    Args:
        images: (I, D) float32 rows of length 1; a memory map will do.
        captions: (C, D) likewise.
        image_of_caption: (C,) non-decreasing.
        is_training: (C,) bool, the pairs that may be filtered and trained on.
        config: epochs, batches, sizes.
        filtering: the filter's flags and the seed.
        margins: the margins' flags.
        device: where the adapters live.
    """

    def __init__(
        self,
        images: np.ndarray,
        captions: np.ndarray,
        image_of_caption: np.ndarray,
        is_training: np.ndarray,
        *,
        config: AdapterConfig,
        filtering: FilterConfig,
        margins: MarginConfig,
        device: torch.device,
    ) -> None:
        self.images, self.captions, self.image_of_caption = images, captions, image_of_caption
        self.config, self.filtering, self.margins = config, filtering, margins
        self.pairs = np.flatnonzero(is_training)
        self.image_adapter, self.caption_adapter = (
            ResidualAdapter(images.shape[1], config.hidden_size, generator(filtering.seed, "adapter", side)).to(device)
            for side in ("images", "captions")
        )
        self._loss = DynamicMarginRankingLoss(margins)
        parameters = [*self.image_adapter.parameters(), *self.caption_adapter.parameters()]
        self._optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)

    def adapted(self, rows: tuple[np.ndarray, np.ndarray]) -> tuple[Adapted, Adapted]:
        """Return image and caption rows of length 1 as the adapters see them now."""
        return Adapted(self.image_adapter, rows[0]), Adapted(self.caption_adapter, rows[1])

    def similarity(self) -> np.ndarray:
        """Return the adapted cosine of every pair, (C,) float64."""
        return similarity_of(*self.adapted((self.images, self.captions)), self.image_of_caption)

    def epochs(self) -> Iterator[EpochRecord]:
        """Train, filtering the training pairs again every `refit_every` epochs; yield a record an epoch.

        Raises:
            InputError: too few training pairs, none kept, or the loss is not finite.
        """
        for epoch in range(self.config.num_epochs):
            if epoch % self.config.refit_every == 0:
                found = filter_pairs(self.similarity()[self.pairs], self.filtering)
            margins = dynamic_margins(self.margins, found.modes, torch.ones(1))
            yield EpochRecord(epoch + 1, self._train(epoch, found), found, margins)

    def _train(self, epoch: int, found: Filtered) -> float:
        """Take one step a batch of kept pairs in a random order; return the mean loss."""
        kept = np.flatnonzero(found.is_clean)
        order = kept[torch.randperm(len(kept), generator=generator(self.filtering.seed, "shuffle", epoch)).numpy()]
        batches = np.array_split(order, -(-len(order) // self.config.batch_size))  # of equal size but for one pair
        bar, total = Progress(f"epoch {epoch + 1}", len(order)), 0.0
        for batch in batches:
            probability = torch.from_numpy(found.probability[batch]).float()
            loss = self._step(self.pairs[batch], dynamic_margins(self.margins, found.modes, probability))
            total += loss * len(batch)
            bar.advance(len(batch), loss)
        bar.close()
        if not math.isfinite(total):
            raise InputError("the adapter's loss is not finite; lower --learning_rate")
        return total / len(order)

    def _step(self, pairs: np.ndarray, margins: Margins) -> float:
        rows = self.image_of_caption[pairs]
        images = self.image_adapter(_tensor(self.images[rows], self.image_adapter))
        captions = self.caption_adapter(_tensor(self.captions[pairs], self.caption_adapter))
        loss = self._loss(images @ captions.t(), margins, image_id=torch.from_numpy(rows).to(images.device))
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write both adapters: tensors and plain values only, to be read with `torch.load(..., weights_only=True)`.

        `images` and `captions` hold `inner` (H, D) and `outer` (D, H): normalise(x + outer gelu(inner x)) for x of
        length 1.
        """
        sides = {"images": self.image_adapter, "captions": self.caption_adapter}
        states = {side: {k: v.cpu() for k, v in adapter.state_dict().items()} for side, adapter in sides.items()}
        settings = {"adapter": asdict(self.config), "filter": asdict(self.filtering), "margins": asdict(self.margins)}
        save_checkpoint(path, {**states, "config": settings})
