"""What does saving cost: size and seconds of a run's state at published sizes, and the share of an epoch it takes.

    python -m benchmarks.saving
    python -m benchmarks.saving --methods mgcs --step_seconds 3.3,0.1 --folder /data

Two networks of SGR 1024 / 256 / 3 with Adam's moments, a vocabulary of 8,500 words, divisions of 145,000 pairs of
29,000 images, and what the method remembers. An epoch is 1,133 hard-negative steps of each network (batch 128);
division and validation come on top, so that the share is an upper bound. State is saved every `--save_minutes`, after
the division, after training and after the validation. Seconds of a step: benchmarks/RESULTS.md, or 0 for a few steps
timed here.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.published_sizes import NUM_REGIONS, REGION_DIM, VOCABULARY_SIZE, random_batch
from methods.blocks.method import Bank
from models.matcher import MatcherShape
from runtime.checkpoint import as_bytes
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from runtime.log import table
from training.config import parse_args
from training.division import Division
from training.network import Network, build_networks
from training.saved_state import SavedState
from training.step import Part, part_loss

PAIRS, IMAGES, BATCH = 145_000, 29_000, 128
STAGE_SAVES = 3
"""After the division, after training, after the validation."""
MEBI = 2**20


@dataclass(frozen=True)
class SavingConfig:
    """Flags of this benchmark."""

    methods: str = flag("bicro,mgcs", "methods whose state is saved, separated by commas")
    step_seconds: str = flag("3.3,0", "seconds of a training step, separated by commas (0: timed here)")
    save_minutes: float = flag(10.0, "minutes between saves")
    repeats: int = flag(5, "saves that are timed")
    folder: str | None = flag(
        None, "folder on the disk that is written to (default: that of temporary files)", metavar="DIR"
    )

    def __post_init__(self) -> None:
        check_range(self, "save_minutes", low=1e-6)
        check_range(self, "repeats", low=1)
        self.steps()
        if self.folder is not None and not Path(self.folder).is_dir():
            raise InputError(f"--folder {self.folder} is no folder; name one on the disk that runs are written to")

    def steps(self) -> list[float]:
        """Return the seconds of a step.

        Raises:
            InputError: they are no numbers, or negative.
        """
        try:
            seconds = [float(text) for text in self.step_seconds.split(",")]
        except ValueError:
            seconds = [-1.0]
        if min(seconds) < 0:
            raise InputError(f"--step_seconds {self.step_seconds} must be numbers of at least 0, separated by commas")
        return seconds


def full_state(method: str) -> tuple[list[Network], dict[str, Any]]:
    """Return networks of published sizes and the state of a run in the middle of an epoch."""
    mgcs = ("--drift_correction", "division", "--drift_neighbours", "bank")  # as in the recipes of the embedded data
    config = parse_args(["--method", method, *mgcs, "--gpu", "cpu"])
    shape = MatcherShape(vocabulary_size=VOCABULARY_SIZE, num_regions=NUM_REGIONS, region_dim=REGION_DIM)
    networks = build_networks(config, shape, torch.device("cpu"))
    size = config.matcher.embed_size
    for network in networks:
        for parameter in network.matcher.parameters():
            parameter.grad = torch.zeros_like(parameter)
        network.optimiser.step()  # makes Adam's moments
        if network.method.needs_bank:
            vectors = torch.rand(2, IMAGES, size)
            network.method.remember(Bank(vectors[0], vectors[1], torch.arange(IMAGES)))
    division = Division(np.zeros(PAIRS), np.random.default_rng(0).random(PAIRS), np.ones(PAIRS, dtype=bool))
    state = {
        "config": config.as_dict(),
        "networks": [network.state() for network in networks],
        "divisions": {network.name: division.as_state() for network in networks},
    }
    return networks, state


@dataclass(frozen=True)
class Cost:
    """Bytes of a state, and median seconds: of everything, of writing down in memory, of the checksum, of the disk."""

    size: int
    whole: float
    memory: float
    checksum: float
    disk: float


def cost_of_saving(state: dict[str, Any], folder: Path, repeats: int) -> Cost:
    """Save a state several times into a folder."""
    saved, times = SavedState(folder), np.empty((repeats, 4))
    size = 0
    for row in times:
        started = time.perf_counter()
        saved.save(state)
        row[0] = time.perf_counter() - started
        marks = [time.perf_counter()]
        payload = as_bytes(state)
        marks.append(time.perf_counter())
        hashlib.sha256(payload).digest()
        marks.append(time.perf_counter())
        with open(folder / "plain", "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        marks.append(time.perf_counter())
        row[1:] = np.diff(marks)
        size = len(payload)
    return Cost(size, *np.median(times, axis=0).tolist())


def seconds_of_a_step(network: Network, repeats: int = 3) -> float:
    """Time hard-negative steps of a network, after one that does not count."""
    batch = random_batch(BATCH)
    part, times = Part(batch, torch.ones(BATCH)), []
    network.matcher.train()
    for _ in range(1 + repeats):
        started = time.perf_counter()
        network.step(part_loss(network, part, 1.0), grad_clip=2.0)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def share_of_an_epoch(save_seconds: float, step_seconds: float, save_minutes: float, networks: int) -> dict[str, float]:
    """Return the seconds of an epoch's steps, how often it is saved, and the share that takes.

    Example: two networks at 3.3 s a step, 10 minutes: 7,478 s, 12 saves by the clock and 3 by stages; at 1 s a save
    that is 15 / (7,478 + 15) = 0.2 %.
    """
    steps = networks * round(PAIRS / BATCH) * step_seconds
    saves = int(steps // (60 * save_minutes)) + STAGE_SAVES
    return {"seconds": steps, "saves": saves, "share": saves * save_seconds / (steps + saves * save_seconds)}


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Save, print the cost, print the share."""
    parser = OneLineParser(prog="python -m benchmarks.saving", description="What saving a run's state costs.")
    add_flags(parser, "saving", SavingConfig)
    config = from_namespace(SavingConfig, parser.parse_args(argv))
    costs, shares = [], []
    here = 0.0
    for method in config.methods.split(","):
        networks, state = full_state(method.strip())
        if 0 in config.steps() and not here:
            here = seconds_of_a_step(networks[0])
        with tempfile.TemporaryDirectory(dir=config.folder) as folder:
            cost = cost_of_saving(state, Path(folder), config.repeats)
        parts = (cost.whole, cost.memory, cost.checksum, cost.disk)
        costs.append([method, f"{cost.size / MEBI:.0f}", *(f"{seconds:.2f}" for seconds in parts)])
        for given in config.steps():
            step = given or here
            found = share_of_an_epoch(cost.whole, step, config.save_minutes, len(networks))
            cells = (f"{step:.2f}", f"{found['seconds']:.0f}", f"{found['saves']:.0f}", f"{100 * found['share']:.2f} %")
            shares.append([method, *cells])
    print(table(["a save", "MiB", "seconds", "in memory", "checksum", "write, fsync"], costs))
    print(f"\nan epoch of {round(PAIRS / BATCH)} steps a network, --save_minutes {config.save_minutes:g}")
    print(table(["", "s a step", "s an epoch", "saves", "share of saving"], shares))


if __name__ == "__main__":
    main()
