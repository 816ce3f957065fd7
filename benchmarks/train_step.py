"""How long does a training step take: the published formulation against ours, alternately in one process.

    python -m benchmarks.train_step --json train_step.json

A step is everything: encode, score, loss, backward, clip, Adam. Published: one caption at a time against all images,
autograd through every pair (benchmarks/published.py), torch's GRU and plain Adam. Differences are of the first step,
from the same weights: scores, loss, and the gradient of all parameters. Dropout is off, since the two draw other masks.
The last row compares our MGCS step with our BiCro step, both with a clean and a noisy batch and its soft labels; there
`published` is BiCro.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam

from benchmarks import published
from benchmarks.measure import Results, Row, compare, device_of, relative_difference, relative_differences, tell
from benchmarks.published_sizes import published_matcher, random_batch
from data_utils.loaders import Batch
from methods.baseline import METHOD as BASELINE
from methods.bicro import BiCro, BiCroConfig
from methods.blocks.method import Method, MethodConfig
from methods.mgcs import MGCS, MGCSConfig
from models.matcher import Matcher, ScoringConfig, bf16_is_supported, prepare_scoring
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import check_range, flag
from tools.command import check_writable, parsed
from training.config import TrainingConfig
from training.network import (
    LabelledBatch,
    Network,
    build_optimiser,
    part_loss,
    small,
    soft_labels,
    train_step,
    warm_up_step,
)

MARGIN, CLIP, LEARNING_RATE, SELECTED = 0.2, 2.0, 2e-4, 0.5


@dataclass(frozen=True)
class TrainStepConfig:
    """Flags of this benchmark."""

    rows: str = flag("all", "rows to measure, separated by commas: hard, warmup, sele, saf, mgcs; or all")
    batch_size: int = flag(128, "pairs a batch")
    repeats: int = flag(5, "timed steps of each side")
    device: str = flag("cpu", "cpu, or cuda (the first GPU)")
    json: str | None = flag(None, "write the rows to this JSON file", metavar="FILE")

    def __post_init__(self) -> None:
        check_range(self, "batch_size", low=2)
        check_range(self, "repeats", low=1)
        check_writable("json", self.json)
        unknown = set(self.chosen()) - ROWS.keys()
        if unknown:
            raise InputError(f"--rows {', '.join(sorted(unknown))} is unknown; known: all, {', '.join(ROWS)}")

    def chosen(self) -> list[str]:
        """Return the rows by name."""
        return list(ROWS) if self.rows == "all" else [name.strip() for name in self.rows.split(",")]


def _results(matcher: Matcher, loss: Tensor | float) -> Results:
    """Return the loss and the clipped gradient of all parameters."""
    gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in matcher.parameters()]
    return {"loss": torch.as_tensor(loss).detach().reshape(1), "gradient": torch.cat(gradients)}


@torch.no_grad()
def _difference_of_scores(matcher: Matcher, batch: Batch) -> float:
    twin = copy.deepcopy(matcher)  # in train mode scoring moves running statistics
    embeddings = matcher.embed(batch)
    ours = matcher.similarity(embeddings.images, embeddings.captions)
    return relative_difference(published.batch_scores(twin, batch), ours)


def _network(matcher: Matcher, method: Method) -> Network:
    return Network("A", matcher, build_optimiser(matcher, LEARNING_RATE), method, torch.Generator())


def _published_side(matcher: Matcher, batch: Batch, loss_of: Callable[[Tensor], Tensor]) -> Callable[[], Results]:
    optimiser = Adam(matcher.parameters(), lr=LEARNING_RATE)

    def step() -> Results:
        optimiser.zero_grad()
        scores = published.batch_scores(matcher, batch)
        loss = loss_of(scores)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matcher.parameters(), CLIP)
        optimiser.step()
        return _results(matcher, loss)

    return step


def _hard(config: TrainStepConfig, device: torch.device, module: str = "SGR") -> list[Row]:
    matcher = published_matcher(module).to(device).train()
    batch = random_batch(config.batch_size).to(device)
    scores = {"scores": _difference_of_scores(copy.deepcopy(matcher), batch)}
    theirs = _published_side(copy.deepcopy(matcher), batch, lambda s: published.hinge(s, MARGIN, hardest=True).sum())
    part = LabelledBatch(batch, torch.ones(len(batch), device=device))

    def side(precision: str) -> Callable[[], Results]:
        network = _network(copy.deepcopy(matcher), BASELINE(MethodConfig()))
        prepare_scoring([network.matcher], ScoringConfig(precision), device)

        def step() -> Results:
            loss = part_loss(network, part, 1.0)
            return _results(network.matcher, network.step(loss, CLIP))

        return step

    name = f"hardest negatives, {module}"
    ours = {name: side("fp32")}
    if module == "SGR" and bf16_is_supported(device):  # SAF couples pairs: nothing is scored without gradient
        ours[f"{name}, bf16 scoring"] = side("bf16")
    return compare(
        theirs,
        ours,
        repeats=config.repeats,
        device=device,
        differences=lambda a, b: scores | relative_differences(a, b),
    )


def _warm_up(config: TrainStepConfig, device: torch.device, kind: str) -> list[Row]:
    matcher = published_matcher().to(device).train()
    batch = random_batch(config.batch_size).to(device)

    def loss_of(scores: Tensor) -> Tensor:
        losses = published.hinge(scores, MARGIN, hardest=False)
        return losses[small(losses, SELECTED)].sum() if kind == "warmup_sele" else losses.sum()

    theirs = _published_side(copy.deepcopy(matcher), batch, loss_of)
    network = _network(matcher, BASELINE(MethodConfig()))
    settings = TrainingConfig(warmup_type=kind, warmup_rate=SELECTED, grad_clip=CLIP)

    def ours() -> Results:
        return _results(matcher, warm_up_step([network], batch, settings) * len(batch))

    name = "warm-up, mean hinge, SGR" + (f", warmup_sele {SELECTED}" if kind == "warmup_sele" else "")
    return compare(theirs, {name: ours}, repeats=config.repeats, device=device)


def _mgcs(config: TrainStepConfig, device: torch.device) -> list[Row]:
    size = config.batch_size
    clean, noisy = random_batch(size).to(device), random_batch(size, seed=1).to(device)
    probability = torch.linspace(0.5, 1, size, device=device)

    def side(method: Callable[[], Method]) -> Callable[[], Results]:
        student, peer = (_network(published_matcher(seed=k).to(device).train(), method()) for k in range(2))

        def step() -> Results:
            labels = soft_labels(student, peer, clean, noisy, probability)
            assert labels.noisy is not None
            parts = [LabelledBatch(clean, labels.clean), LabelledBatch(noisy, labels.noisy, labels.noisy_kept)]
            train_step(student, parts, 1.0, grad_clip=CLIP)
            return {}

        return step

    paper = MGCSConfig(drift_correction="both", drift_neighbours="batch", drift_own=False)
    bicro, ours = side(lambda: BiCro(BiCroConfig())), {"MGCS against BiCro, both ours": side(lambda: MGCS(paper))}
    return compare(bicro, ours, repeats=config.repeats, device=device)


ROWS: dict[str, Callable[[TrainStepConfig, torch.device], list[Row]]] = {
    "hard": _hard,
    "warmup": lambda config, device: _warm_up(config, device, "warmup"),
    "sele": lambda config, device: _warm_up(config, device, "warmup_sele"),
    "saf": lambda config, device: _hard(config, device, module="SAF"),
    "mgcs": _mgcs,
}


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Measure the chosen rows and print the table."""
    kinds = {"benchmark": TrainStepConfig}
    (config,) = parsed("benchmarks.train_step", "Training steps at published sizes.", argv, kinds)
    device = device_of(config.device)
    tell([row for name in config.chosen() for row in ROWS[name](config, device)], config.json)


if __name__ == "__main__":
    main()
