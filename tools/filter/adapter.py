"""A small residual adapter on frozen embeddings, trained with DSDMR's loop: filter, train on the rest, filter again.

f'(x) = x + W2 gelu(W1 x) for images and g' alike for captions, on rows of length 1; W2 starts at zero, so that nothing
has changed before the first step. *Published* (DSDMR, TOIS 2024) is the loop; the adapter and the loss are *ours*.
Held-out pairs are ranked before and after. They are as noisy as all others and are ranked as they are given; where the
truth is known, once more by their matched captions only. The embeddings of the adapter, unlike those of the filter
alone, are in memory as a whole.
Legend: I images, C captions = pairs, D dimensions, H hidden size, B pairs of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation import result_table
from methods.blocks.dynamic_margin import MarginConfig, dynamic_margins
from models.losses import Margins, hardest_negative, pair_costs
from models.ranks import Retrieval, retrieval
from runtime.checkpoint import save_checkpoint
from runtime.device import choose_device
from runtime.errors import InputError
from runtime.files import write_json
from runtime.flags import check_range, flag
from runtime.log import Progress
from runtime.seed import generator
from tools.filter.filtering import EmbeddingPairs, FilterConfig, Filtered, filter_pairs, filter_quality, similarity_of
from tools.filter.report import percent, quality_text

ADAPTER, ADAPTED_IMAGES, ADAPTED_CAPTIONS = "adapter.pt", "adapted_images.npy", "adapted_captions.npy"
RESULTS = "results.json"
MOST_HELD_OUT = 5000
"""Images that are held out at most."""
ROWS = 2**16
"""So many rows are adapted at a time."""

Rows = tuple[np.ndarray, np.ndarray]
"""Image rows (I, D) and caption rows (C, D), float32 of length 1."""


@dataclass(frozen=True)
class AdapterConfig:
    """Flags of the adapter's training, and of the pairs that are ranked before and after it."""

    adapt: bool = flag(False, "train a residual adapter on the kept pairs, filtering again as it learns")
    num_epochs: int = flag(20, "epochs of the adapter")
    batch_size: int = flag(128, "pairs a batch, among which the hardest negatives are looked for")
    learning_rate: float = flag(1e-3, "learning rate of Adam")
    hidden_size: int = flag(256, "width of the adapter's hidden layer")
    refit_every: int = flag(1, "epochs between filterings")
    holdout: float = flag(
        0.1,
        f"share of the images, {MOST_HELD_OUT:,} at most, held out and ranked before and after; 0: none",
        metavar="RATIO",
    )
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")

    def __post_init__(self) -> None:
        for name in ("num_epochs", "hidden_size", "refit_every"):
            check_range(self, name, low=1)
        check_range(self, "batch_size", low=2)
        check_range(self, "learning_rate", low=1e-12, high=1.0)
        check_range(self, "holdout", low=0.0, high=1.0, high_open=True)


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

    def of(self, rows: np.ndarray) -> Tensor:
        """Return adapted rows (B, D), on the adapter's device."""
        return self(torch.from_numpy(rows).to(self.inner.device))

    @torch.no_grad()
    def all_of(self, rows: np.ndarray) -> np.ndarray:
        """Return all adapted rows, float32 in memory."""
        return np.concatenate([self.of(rows[k : k + ROWS]).cpu().numpy() for k in range(0, len(rows), ROWS)])


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
        rows: of all pairs.
        image_of_caption: (C,) non-decreasing.
        is_training: (C,) bool, the pairs that may be filtered and trained on.
        config: epochs, batches, sizes.
        filtering: the filter's flags and the seed.
        margins: the margins' flags.
        device: where the adapters live.
    """

    def __init__(
        self,
        rows: Rows,
        image_of_caption: np.ndarray,
        is_training: np.ndarray,
        *,
        config: AdapterConfig,
        filtering: FilterConfig,
        margins: MarginConfig,
        device: torch.device,
    ) -> None:
        self.rows, self.image_of_caption = rows, image_of_caption
        self.config, self.filtering, self.margins = config, filtering, margins
        self.pairs = np.flatnonzero(is_training)
        self.image_adapter, self.caption_adapter = (
            ResidualAdapter(rows[0].shape[1], config.hidden_size, generator(filtering.seed, "adapter", side)).to(device)
            for side in ("images", "captions")
        )
        parameters = [*self.image_adapter.parameters(), *self.caption_adapter.parameters()]
        self._optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)

    def adapted(self, rows: Rows) -> Rows:
        """Return rows as the adapters see them now."""
        return self.image_adapter.all_of(rows[0]), self.caption_adapter.all_of(rows[1])

    def similarity(self) -> np.ndarray:
        """Return the adapted cosine of every pair, (C,) float64."""
        return similarity_of(*self.adapted(self.rows), self.image_of_caption)

    def epochs(self) -> Iterator[EpochRecord]:
        """Train, filtering the training pairs again every `refit_every` epochs; yield a record an epoch.

        Raises:
            InputError: too few training pairs, none kept, or the loss is not finite.
        """
        for epoch in range(self.config.num_epochs):
            if epoch % self.config.refit_every == 0:
                found = filter_pairs(
                    self.similarity()[self.pairs], self.filtering, self.filtering.p_threshold, self.filtering.seed
                )
            margins = dynamic_margins(self.margins, found.modes, torch.ones(1))
            yield EpochRecord(epoch + 1, self._train(epoch, found), found, margins)

    def _train(self, epoch: int, found: Filtered) -> float:
        """Take one step a batch of kept pairs in a random order; return the mean loss."""
        kept = np.flatnonzero(found.is_clean)
        order = kept[torch.randperm(len(kept), generator=generator(self.filtering.seed, "shuffle", epoch)).numpy()]
        batches = np.array_split(order, -(-len(order) // self.config.batch_size))  # of equal size but for one pair
        bar, total = Progress(f"epoch {epoch + 1}", len(order)), 0.0
        for batch in batches:
            probability = torch.from_numpy(found.probability[batch]).float().to(self.image_adapter.inner.device)
            loss = self._step(self.pairs[batch], dynamic_margins(self.margins, found.modes, probability))
            total += loss * len(batch)
            bar.advance(len(batch), loss)
        bar.close()
        if not math.isfinite(total):
            raise InputError("the adapter's loss is not finite; lower --learning_rate")
        return total / len(order)

    def _step(self, pairs: np.ndarray, margins: Margins) -> float:
        numbers = self.image_of_caption[pairs]
        images, captions = self.image_adapter.of(self.rows[0][numbers]), self.caption_adapter.of(self.rows[1][pairs])
        image_id = torch.from_numpy(numbers).to(images.device)
        costs = pair_costs(images @ captions.t(), margins.image, image_id, caption_margin=margins.text)
        loss = hardest_negative(costs).mean()
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


# -- what is ranked -------------------------------------------------------------------------------------------------


def unit_rows(pairs: EmbeddingPairs) -> Rows:
    """Read both files whole; return their rows scaled to length 1.

    Raises:
        InputError: a row that cannot be scaled (from reading it).
    """

    def scaled(rows: np.ndarray) -> np.ndarray:
        wide = rows.astype(np.float64)
        wide /= np.abs(wide).max(axis=1, keepdims=True)  # squares of very long or short rows would leave the range
        return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)

    return scaled(pairs.images[:]), scaled(pairs.captions[:])


@dataclass(frozen=True)
class RankedSet:
    """Images and captions that are ranked against each other.

    Attributes:
        images: (I,) numbers of the image rows.
        captions: (C,) numbers of the caption rows.
        image_of_caption: (C,) place in `images` of each caption's image.
    """

    images: np.ndarray
    captions: np.ndarray
    image_of_caption: np.ndarray

    @classmethod
    def held_out(cls, image_of_caption: np.ndarray, num_images: int, config: AdapterConfig, seed: int) -> RankedSet:
        """Choose images at random, with all their captions.

        Raises:
            InputError: fewer than two images would be held out.
        """
        size = min(round(config.holdout * num_images), MOST_HELD_OUT)
        if size < 2:
            raise InputError(
                f"--holdout {config.holdout:g} of {num_images} images is {size}, too few to rank; raise it, or give 0"
            )
        order = torch.randperm(num_images, generator=generator(seed, "holdout")).numpy()
        images = np.sort(order[:size])
        captions = np.flatnonzero(np.isin(image_of_caption, images))
        return cls(images, captions, np.searchsorted(images, image_of_caption[captions]))

    def of(self, is_wanted: np.ndarray) -> RankedSet:
        """Return the same images with only some captions; is_wanted is of all caption rows."""
        own = is_wanted[self.captions]
        return RankedSet(self.images, self.captions[own], self.image_of_caption[own])

    def rank(self, rows: Rows) -> Retrieval:
        """Rank this set's rows by cosine."""
        return retrieval(rows[0][self.images] @ rows[1][self.captions].T, self.image_of_caption)


def adapt(
    pairs: EmbeddingPairs,
    is_matched: np.ndarray | None,
    config: AdapterConfig,
    filtering: FilterConfig,
    margins: MarginConfig,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Train the adapters and write them, the adapted embeddings and the figures into `folder`.

    Args:
        pairs: the embeddings that were cleaned.
        is_matched: (pairs,) the truth, if it is known; only for figures.
        config, filtering, margins: the flags.
        folder: where to.
        say: prints a line or a table.

    Raises:
        InputError: the flags do not fit the files, or training diverges.
    """
    rows, is_training, sets = unit_rows(pairs), np.ones(len(pairs), dtype=bool), {}
    title = "nothing is held out and ranked (--holdout 0)"
    if config.holdout:
        held = RankedSet.held_out(pairs.image_of_caption, len(pairs.images), config, filtering.seed)
        sets[""], is_training[held.captions] = held, False
        if is_matched is not None and is_matched[held.captions].any():
            sets[", matched only"] = held.of(is_matched)
        title = f"held out: {len(held.images)} images, {len(held.captions)} captions; mismatched ones are ranked too"
    say(title)
    results = {f"before{name}": members.rank(rows) for name, members in sets.items()}
    training = AdapterTraining(
        rows,
        pairs.image_of_caption,
        is_training,
        config=config,
        filtering=filtering,
        margins=margins,
        device=choose_device(config.gpu),
    )

    def quality_of(found: Filtered, own: slice | np.ndarray) -> dict[str, Any] | None:
        return None if is_matched is None else filter_quality(found.is_clean, found.probability, is_matched[own])

    epochs, told = [], {""}
    for record in training.epochs():
        quality = quality_of(record.found, training.pairs)
        noise = "" if quality is None else f", residual noise {percent(quality['residual_noise'])} %"
        say(record.text(config.num_epochs, noise))
        if record.found.modes.note not in told:
            told.add(record.found.modes.note)
            say(f"warning: {record.found.modes.note}")
        if record.loss == 0:
            say("nothing to learn: no negative comes within the margins")
        epochs.append({**record.as_dict(), "quality": quality})
    adapted = training.adapted(rows)
    results |= {f"after{name}": members.rank(adapted) for name, members in sets.items()}
    if results:
        say(result_table("adapter", results))
    last = filter_pairs(training.similarity(), filtering, filtering.p_threshold, filtering.seed)
    quality = quality_of(last, slice(None))
    if quality is not None:
        say(quality_text({"adapted, all pairs": quality}))
    for own, target in zip(adapted, (ADAPTED_IMAGES, ADAPTED_CAPTIONS), strict=True):
        np.save(folder / target, own)
    training.save(folder / ADAPTER)
    figures = {
        "ranked": title,
        "results": {name: result.as_dict() for name, result in results.items()},
        "epochs": epochs,
        "adapted": {"modes": last.modes.as_dict(), "num_kept": int(last.is_clean.sum()), "quality": quality},
        "settings": {"adapter": asdict(config), "filtering": asdict(filtering), "margins": asdict(margins)},
    }
    write_json(folder / RESULTS, figures)
