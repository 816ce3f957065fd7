"""What a run starts from and goes on with: pairs with the noise put in, model, optimiser, the state after an epoch.

Legend: C training pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim import Adam, AdamW, Optimizer

from data_utils.noise import NoiseReport
from runtime.device import choose_device
from runtime.errors import InputError
from runtime.torch_file import read_torch_file
from tools.clip_tuning.config import ClipRunConfig, TuningConfig
from tools.clip_tuning.evaluate import PreparedPairs
from tools.clip_tuning.model import Clip, open_clip
from tools.clip_tuning.pairs import SPLITS, inject_noise, open_pairs

CONFIG, STATE, RESULTS = "config.json", "state.pt", "results.json"
"""Files of a run: its settings, what it is gone on with, and what came out."""
WARMUP_SHARE = 0.1
"""Share of the pretraining's steps in which its learning rate rises."""


@dataclass(frozen=True)
class ClipData:
    """A run's model and pairs.

    Attributes:
        model: on its device.
        splits: train, dev, test.
        image_index: (C,) the picture that each training caption is trained with.
        noise: what was done to the pairs.
    """

    model: Clip
    splits: dict[str, PreparedPairs]
    image_index: np.ndarray
    noise: NoiseReport

    @classmethod
    def open(cls, config: ClipRunConfig) -> ClipData:
        """Open the pairs of every split, put the noise in, open the model.

        Raises:
            InputError: anything missing, broken or not fitting together.
        """
        pairs = {split: open_pairs(config.pairs, split) for split in SPLITS}
        image_index, noise = inject_noise(pairs["train"], config.noise, config.pairs.data_name)
        tuning = config.tuning
        model = open_clip(config.model, pairs["train"].captions, tuning.seed, choose_device(tuning.gpu))
        cache, workers = tuning.picture_cache * 2**20, tuning.workers
        splits = {name: PreparedPairs.of(p, model, cache_bytes=cache, workers=workers) for name, p in pairs.items()}
        return cls(model, splits, image_index, noise)

    @property
    def is_matched(self) -> np.ndarray | None:
        """Which training pairs (C,) belong together, None where nothing was moved: then the truth is not known."""
        truth = self.image_index == self.splits["train"].pairs.image_of_caption
        return None if truth.all() else truth


def build_optimiser(model: Clip, tuning: TuningConfig) -> Optimizer:
    """Return the optimiser; AdamW with CLIP's settings (Radford et al., ICML 2021, Table 18)."""
    if tuning.optimiser == "adam":
        return Adam(model.parameters(), lr=tuning.learning_rate)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": tuning.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, lr=tuning.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def pretraining_rate(tuning: TuningConfig, steps: int, epoch: int, step: int) -> float:
    """Return the learning rate of a step of pretraining: a linear rise, along a cosine's fall to 0.

    Args:
        tuning: number of epochs and the highest rate.
        steps: of an epoch.
        epoch: from 0.
        step: of the epoch, from 0.
    """
    total, done = tuning.pretrain_epochs * steps, epoch * steps + step
    rise = min(1.0, (done + 1) / (WARMUP_SHARE * total))
    return tuning.pretrain_lr * rise * (1 + math.cos(math.pi * done / total)) / 2


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        epochs_done: of pretraining and fine-tuning together.
        seconds: that the run has taken so far.
        best: epoch of fine-tuning, dev results and rSum of the model that dev would choose; empty before the first.
        log_size: of the logs.
        first_filter: figures of the first filtering.
    """

    epochs_done: int = 0
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    log_size: dict[str, int] = field(default_factory=dict)
    first_filter: dict[str, Any] = field(default_factory=dict)


def load_state(folder: Path) -> dict[str, Any]:
    """Read what a trainer saved, with `run` as a `RunState`, without executing anything in it.

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
