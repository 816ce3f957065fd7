"""The small runs that are put through it: what a run can be made of, in a second or two each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.tiny import make_tiny_data, tiny_flags

IMAGES = {"train": 24, "dev": 8, "test": 8}
COMMON = (
    *("--dropout", "0.4", "--warmup_epoch", "2", "--num_epochs", "2", "--log_step", "2", "--learning_rate", "0.002"),
    "--resume",
)


@dataclass(frozen=True)
class Kind:
    """A small run: its flags, the threads that torch has, and whether the networks' records come as they come."""

    flags: tuple[str, ...]
    threads: int = 1
    by_network: bool = False

    def argv(self, data: Path, output: Path) -> list[str]:
        """Return run.py's arguments: start, or go on if there is anything to go on with."""
        return tiny_flags(data, output, *COMMON, *self.flags)


EVERY_STEP, NOW_AND_THEN = ("--save_minutes", "0"), ("--save_minutes", "0.005")
KINDS = {
    "MGCS, SGR, saved every step": Kind(
        (
            "--module_name",
            "SGR",
            "--noisy_start",
            "0.5",
            "--drift_correction",
            "both",
            "--drift_neighbours",
            "bank",
            "--batch_size",
            "32",
            *EVERY_STEP,
        )
    ),
    "MGCS, SGR, side by side": Kind(
        ("--module_name", "SGR", "--noisy_start", "1", "--side_by_side", *NOW_AND_THEN), threads=2, by_network=True
    ),
    "BiCro, VSE, a reader": Kind(("--method", "bicro", "--noisy_start", "0.5", "--workers", "1", *NOW_AND_THEN)),
    "DSDMR, SAF, saved every stage": Kind(
        ("--method", "dsdmr", "--module_name", "SAF", "--filter_pool", "cumulative", "--min_separation", "0")
    ),
}


def make_data(root: Path) -> Path:
    """Make the data of all kinds; return its folder."""
    return make_tiny_data(root / "data", images=IMAGES)
