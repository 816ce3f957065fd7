"""Make a trainer on tiny data without running it."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import tiny_flags
from training.config import parse_args
from training.data import open_data
from training.trainer import Trainer


def make_trainer(root: Path, folder: Path, *extra: str) -> Trainer:
    """Return a trainer with the flags of `tiny_flags` that writes into `folder`."""
    config = parse_args(tiny_flags(root, folder, *extra))
    return Trainer(config, open_data(config.data, config.noise, config.matcher), folder)


def warmed_up(trainer: Trainer, epochs: int) -> Trainer:
    """Train so many warm-up epochs more, as the loop does: each is a stage of its own."""
    first = trainer.state.stage
    for epoch in range(first, first + epochs):
        trainer.warm_up(epoch)
        trainer.state.next_stage()
    return trainer
