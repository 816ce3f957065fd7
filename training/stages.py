"""A run as a list of stages, and what the epochs of a recipe are like: learning rate, hardness, the noisy side."""

from __future__ import annotations

from dataclasses import dataclass

from training.config import TrainingConfig
from training.optim import LR_RULES


@dataclass(frozen=True)
class Stage:
    """A warm-up epoch, an epoch, or the validation of what a run starts from (`start`)."""

    kind: str
    epoch: int
    title: str
    is_last: bool
    """Of its kind."""


def stages(settings: TrainingConfig) -> list[Stage]:
    """Return everything between the start and the test, in order."""
    first = [Stage("start", 0, "start", True)]
    if not settings.saved_model and not settings.warmup_model_path:
        last = settings.warmup_epoch
        first = [Stage("warm-up", e, f"warm-up {e + 1}/{last}", e + 1 == last) for e in range(last)]
    last = settings.num_epochs
    return first + [Stage("epoch", e, f"epoch {e + 1}/{last}", e + 1 == last) for e in range(last)]


def learning_rate(settings: TrainingConfig, epoch: int) -> float:
    """Return this epoch's learning rate, by `--lr_rule`."""
    return settings.learning_rate * LR_RULES[settings.lr_rule](epoch, settings.num_epochs, settings.lr_update)


def hardness(settings: TrainingConfig, epoch: int) -> float:
    """Return how hard this epoch's negatives are: 0 their mean, 1 the hardest."""
    if settings.negatives == "anneal":
        return min(1.0, epoch / settings.anneal_epochs)
    return 1.0 if settings.negatives == "hardest" else 0.0


def noisy_side_is_due(settings: TrainingConfig, epoch: int) -> bool:
    """Tell whether the noisy side is trained in this epoch, if the method trains it."""
    return epoch >= settings.noisy_start * settings.num_epochs
