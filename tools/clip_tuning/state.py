"""The state of a run after an epoch, in one file: all that is needed to go on as if it had not been interrupted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from runtime.checkpoint import save_checkpoint
from runtime.errors import InputError
from runtime.torch_file import read_torch_file

STATE = "state.pt"
"""Its name in the run's folder."""


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        epochs_done: of pretraining and fine-tuning together.
        seconds: that the run has taken so far.
        best: epoch of fine-tuning, dev results and rSum of the model that dev would choose; empty before the first.
        records: what was written to metrics.jsonl.
        first_filter: figures of the first filtering.
    """

    epochs_done: int = 0
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    first_filter: dict[str, Any] = field(default_factory=dict)


def save_state(
    folder: Path,
    state: RunState,
    *,
    network: dict[str, Tensor],
    optimiser: dict[str, Any],
    filtered: dict[str, Any] | None,
    random: list[Tensor],
) -> None:
    """Write everything that changes in a run; whole or not at all."""
    content = {"run": vars(state), "network": network, "optimiser": optimiser, "filtered": filtered, "random": random}
    save_checkpoint(folder / STATE, content)


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, with `run` as a `RunState`, without executing anything in it.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / STATE
    if not path.is_file():
        raise InputError(f"--resume {folder}: no {STATE} there; a run can be resumed once its first epoch is done")
    try:
        content = read_torch_file(path)
        return {**content, "run": RunState(**content["run"])}
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"--resume {folder}: {STATE} is damaged ({error}); start anew") from None
