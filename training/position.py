"""Where a run is: all that decides what it does next, apart from what its networks are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Position:
    """A place between two optimiser steps.

    Attributes:
        stage: number of the stage in progress: warm-up epochs, then epochs, or a start from a checkpoint, then epochs.
        is_divided: the stage's division is made.
        is_trained: the stage's training is done; what is left is its validation.
        batches: by network (`A+B` where they step together), the batches of this stage that are done.
        losses: likewise, the losses since the last record.
        epochs_done: stages that were validated: the step of every record but the loss.
        steps_done: by network, steps of which the loss is recorded: the step of that record.
        seconds: run time until the last save.
    """

    stage: int = 0
    is_divided: bool = False
    is_trained: bool = False
    batches: dict[str, int] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    epochs_done: int = 0
    steps_done: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def next_stage(self) -> None:
        """Go to the next stage's beginning."""
        self.stage += 1
        self.is_divided = self.is_trained = False
        self.end_pass()

    def end_pass(self) -> None:
        """Go to the beginning of the next pass over batches: all networks have made this one."""
        self.batches, self.losses = {}, {}

    def share(self, name: str) -> dict[str, Any]:
        """Return what this place says of one network."""
        return {
            "batches": self.batches.get(name, 0),
            "losses": self.losses.get(name, []),
            "steps": self.steps_done.get(name, 0),
        }

    def take(self, name: str, share: dict[str, Any]) -> None:
        """Adopt what another process's place says of one network."""
        self.batches[name], self.losses[name], self.steps_done[name] = share["batches"], share["losses"], share["steps"]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)
