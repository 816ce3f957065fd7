"""What all parts of a run in progress share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from data_utils.batch import Batch
from data_utils.loaders import load, load_forever, shuffled_batches
from data_utils.precomputed import PrecomputedSplit
from runtime.distributed import Processes
from runtime.errors import Interruption
from runtime.log import RunLog
from runtime.seed import generator
from training.config import RunConfig, TrainingConfig
from training.data import RunData
from training.network import Network
from training.pace import Pace
from training.pause import Pauses
from training.position import Position


@dataclass
class Running:
    """A run in progress.

    Attributes:
        networks: in training.
        position: where the run is.
        processes: those that share it; all hold the same networks and go through the same batches.
        log: what it says and records.
        interruption: whether it was asked to end.
        pauses: when it is to be saved.
        pace: how long its work takes.
    """

    config: RunConfig
    data: RunData
    device: torch.device
    networks: list[Network]
    processes: Processes
    log: RunLog
    interruption: Interruption
    pauses: Pauses
    pace: Pace
    position: Position = field(default_factory=Position)

    @property
    def settings(self) -> TrainingConfig:
        """The flags of the loop."""
        return self.config.training

    def pause_is_due(self) -> bool:
        """Tell, in all processes alike, whether to save now."""
        return self.processes.any(self.pauses.is_due())

    def check_interruption(self) -> None:
        """Raise `Stopped`, in all processes alike, if any was asked to end."""
        if self.processes.any(self.interruption.requested is not None):
            self.interruption.ask()
        self.interruption.check()

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Return a generator of the run's seed for one purpose."""
        return generator(self.settings.seed, *purpose)

    def batches(self, pairs: np.ndarray, *purpose: str | int, split: PrecomputedSplit | None = None) -> list[Tensor]:
        """Shuffle pair numbers into an epoch's batches; of the training pairs, or of another `split`."""
        settings = self.settings
        return shuffled_batches(
            pairs,
            settings.step_size,
            self.generator(*purpose),
            lengths=(split or self.data.train).lengths,
            window=settings.length_window,
        )

    def load(self, batches: list[Tensor], split: PrecomputedSplit | None = None) -> Iterator[Batch]:
        """Yield batches of the training pairs, or of another `split`, on the run's device, this process's share of
        each."""
        split = split or self.data.train
        found = load(split, batches, self.settings.workers, device=self.device, processes=self.processes)
        return (batch.to(self.device) for batch in found)

    def load_forever(self, pairs: np.ndarray, shuffle: torch.Generator, skip: int) -> Iterator[Batch]:
        """Yield batches of `pairs` without end, but for the first `skip`."""
        settings = self.settings
        found = load_forever(
            self.data.train,
            pairs,
            settings.step_size,
            shuffle,
            settings.workers,
            window=settings.length_window,
            device=self.device,
            processes=self.processes,
            skip=skip,
        )
        return (batch.to(self.device) for batch in found)
