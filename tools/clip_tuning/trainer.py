"""Pretrain, filter, fine-tune, validate, test, and go on where a run was interrupted.

Epochs are counted through: first those of pretraining, then those of fine-tuning. After each, all that is needed to go
on is written to `state.pt`. Every random choice comes from a generator of the seed and the epoch, so that a resumed run
takes the steps of the uninterrupted one. Legend: C training pairs, B pairs of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer

from data_utils.catalog import protocol
from data_utils.loaders import MIN_BATCH, shuffled_batches
from data_utils.noise import inject
from methods.blocks.modes import SimilarityModes
from runtime.checkpoint import save_checkpoint
from runtime.device import choose_device
from runtime.errors import InputError
from runtime.files import parse_json, write_json
from runtime.log import RunLog
from runtime.seed import generator, seed_everything
from runtime.torch_file import read_torch_file
from tools.clip_tuning.config import CLIP_METHODS, ClipRunConfig, TuningConfig
from tools.clip_tuning.evaluate import PreparedPairs, filter_figures, filter_given_pairs, rank, ranked_tables
from tools.clip_tuning.losses import Loss, loss_function
from tools.clip_tuning.model import Clip, load_clip, open_clip, placed
from tools.clip_tuning.pairs import SPLITS, augment, open_pairs
from tools.filter.filtering import Filtered
from training.checkpointing import claim, differing_settings, numbered

CONFIG, STATE, RESULTS = "config.json", "state.pt", "results.json"
"""Files of a run: its settings, what it is gone on with, and what came out."""
MODEL, PRETRAINED = "model", "pretrained"
"""Folders of the model that dev chose, and of the model after pretraining."""
WARMUP_SHARE = 0.1
"""Share of the pretraining's steps in which its learning rate rises."""
FREE = ("resume", "gpu", "workers")
"""Flags that may be others when a run is gone on with."""


def build_optimiser(model: Clip, tuning: TuningConfig) -> Optimizer:
    """Return AdamW with CLIP's settings (Radford et al., ICML 2021, Table 18)."""
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


def train_step(
    model: Clip,
    optimiser: Optimizer,
    pictures: torch.Tensor,
    ids: torch.Tensor,
    loss_of: Loss,
    *,
    grad_clip: float = float("inf"),
) -> float:
    """Take one step; return the loss.

    Args:
        model: in training mode.
        optimiser: of its parameters.
        pictures: (B, 3, H, W) normalised.
        ids: (B, W) token ids.
        loss_of: the loss of the embeddings.
        grad_clip: the gradient's largest norm.

    Raises:
        InputError: the loss is NaN or infinite.
    """
    optimiser.zero_grad(set_to_none=True)
    loss = loss_of(model.embed_pictures(pictures), model.embed_captions(ids))
    value = float(loss.detach())
    if not math.isfinite(value):
        raise InputError(f"the loss is {value}: training has diverged; lower the learning rate")
    loss.backward()
    clip_grad_norm_(model.parameters(), grad_clip)
    optimiser.step()
    return value


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
        InputError: it is damaged.
    """
    try:
        content = read_torch_file(folder / STATE)
        return {**content, "run": RunState(**content["run"])}
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"--resume: {folder / STATE} is damaged ({error}); start anew") from None


def latest_run(config: ClipRunConfig) -> Path | None:
    """Return the newest folder of the run's name, None if there is none.

    Raises:
        InputError: the run in it has other settings, or no epoch of it was done.
    """
    folders = numbered(Path(config.tuning.output_dir), config.run_name())
    folder = next(reversed(list(takewhile(Path.exists, folders))), None)
    if folder is None:
        return None
    if not (folder / STATE).is_file() and not (folder / RESULTS).is_file():
        raise InputError(f"{folder} holds a run that was cut off before its first epoch was done; remove the folder")
    try:
        stored = parse_json((folder / CONFIG).read_bytes())
        before, now = ({**s, "tuning": {**s["tuning"]}} for s in (stored, asdict(config)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--resume: {folder / CONFIG} cannot be read ({error}); start anew") from None
    for name in FREE:
        before["tuning"].pop(name, None), now["tuning"].pop(name)
    if differing := differing_settings(before, now):
        raise InputError(f"{folder} holds a run with other settings: {differing}; name another --output_dir or --id")
    return folder


class ClipTrainer:
    """Train as `config` says and write everything into a folder.

    Args:
        config: settings.
        folder: of the interrupted run that is gone on with; None claims one for a new run.
        state: what that run saved.

    Raises:
        InputError: pairs or model missing, broken or not fitting together.
    """

    def __init__(self, config: ClipRunConfig, folder: Path | None = None, state: dict[str, Any] | None = None) -> None:
        self.config, self.tuning = config, config.tuning
        self.row = CLIP_METHODS[config.tuning.clip_method]
        pairs = {split: open_pairs(config.pairs, split) for split in SPLITS}
        own = pairs["train"].image_of_caption
        has_real_noise = protocol(config.pairs.data_name).has_real_noise
        self.image_index, self.noise = inject(config.noise, own, has_real_noise=has_real_noise)
        device = choose_device(self.tuning.gpu)
        self.model = open_clip(config.model, pairs["train"].captions, self.tuning.seed, device)
        self.splits = {name: PreparedPairs.of(p, self.model, workers=self.tuning.workers) for name, p in pairs.items()}
        truth = self.image_index == own
        self.is_matched = None if truth.all() else truth  # where nothing was moved the truth is not known
        if folder is None:
            folder = claim(Path(config.tuning.output_dir), config.run_name())
            write_json(folder / CONFIG, asdict(config))
        self.folder = folder
        seed_everything(self.tuning.seed)
        self.optimiser = build_optimiser(self.model, self.tuning)
        self.filtered: Filtered | None = None
        self.run = RunState()
        if state is not None:
            self._restore(state)
        self._started = time.monotonic() - self.run.seconds
        self.log = RunLog(folder, self.run.log_size or None)

    @classmethod
    def start(cls, config: ClipRunConfig) -> ClipTrainer:
        """Begin a new run or, with `--resume`, go on with an interrupted one."""
        folder = latest_run(config) if config.tuning.resume else None
        if folder is None or (folder / RESULTS).is_file():
            return cls(config)
        return cls(config, folder, load_state(folder))

    def _save(self) -> None:
        self.run.seconds, self.run.log_size = time.monotonic() - self._started, self.log.size()
        content = {
            "run": vars(self.run),
            "network": self.model.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "filtered": None,
            "random": torch.get_rng_state(),
        }
        if (found := self.filtered) is not None:
            names = ("similarity", "probability", "is_clean")
            arrays = {name: torch.from_numpy(getattr(found, name)) for name in names}
            content["filtered"] = {**arrays, "modes": found.modes.as_dict()}
        save_checkpoint(self.folder / STATE, content)

    def _restore(self, state: dict[str, Any]) -> None:
        self.run = state["run"]
        self.model.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if (found := state["filtered"]) is not None:
            arrays = {name: value.numpy() for name, value in found.items() if name != "modes"}
            self.filtered = Filtered(**arrays, modes=SimilarityModes.from_dict(found["modes"]))
        torch.set_rng_state(state["random"])

    @property
    def _epoch(self) -> int:
        """The epoch of fine-tuning that comes next, from 0; negative while pretraining."""
        return self.run.epochs_done - self.tuning.pretrain_epochs

    def train(self, *, stop_after: int | None = None) -> dict[str, Any]:
        """Run the whole recipe; return the content of results.json.

        Args:
            stop_after: stop when so many epochs are done, as an interruption would; returns nothing then.
        """
        while True:
            if self._epoch == 0:
                self.start_tuning()
            if self._epoch == self.tuning.tuning_epochs:
                return self.finish()
            if self.run.epochs_done == stop_after:
                self.log.close()
                return {}
            if self._epoch < 0:
                self.pretrain_epoch()
            else:
                self.tune_epoch()
            self._save()

    def pretrain_epoch(self) -> None:
        """Train an epoch with CLIP's loss on all pairs."""
        epoch, everything = self.run.epochs_done, np.arange(len(self.image_index))
        rate = partial(pretraining_rate, self.tuning, math.ceil(len(everything) / self.tuning.batch_size), epoch)
        loss = self._train_on(everything, "contrastive", rate)
        self._close_epoch(f"pretraining {epoch + 1}/{self.tuning.pretrain_epochs}", {"loss": loss})

    def start_tuning(self) -> None:
        """Keep the model as it is now, see how good it is, and begin with fresh moments of the optimiser."""
        if self.tuning.pretrain_epochs:
            self.model.save(self.folder / PRETRAINED)
        self.optimiser = build_optimiser(self.model, self.tuning)
        if not self.tuning.tuning_epochs:
            self._keep_best(0, self._validate("zero-shot"))

    def tune_epoch(self) -> None:
        """Filter if it is time, train an epoch of the row, and keep the model if dev likes it best."""
        epoch, row = self._epoch, self.row
        assert row.loss is not None
        if row.needs_modes and epoch % self.config.filter.refit_every == 0:
            self.filtered, figures = self._filter(f"filter {epoch + 1}")
            self.run.first_filter = self.run.first_filter or figures
        chosen = np.arange(len(self.image_index))
        if row.filters:
            assert self.filtered is not None
            chosen = np.flatnonzero(self.filtered.is_clean)
        rate = self.tuning.learning_rate * 0.1 ** (epoch // self.tuning.lr_update)
        loss = self._train_on(chosen, self.tuning.plain_loss if row.loss == "plain" else row.loss, lambda step: rate)
        title, values = f"epoch {epoch + 1}/{self.tuning.tuning_epochs}", {"loss": loss, "pairs": len(chosen)}
        self._keep_best(epoch + 1, self._close_epoch(title, values))

    def _train_on(self, chosen: np.ndarray, loss: str, rate: Callable[[int], float]) -> float:
        """Train on the pairs of these numbers once; return the mean loss.

        Raises:
            InputError: they are too few for a batch.
        """
        tuning, train, done, device = self.tuning, self.splits["train"], self.run.epochs_done, self.model.device
        if len(chosen) < MIN_BATCH:
            raise InputError(f"{len(chosen)} pairs are too few to train on; lower --p_threshold")
        shuffled = shuffled_batches(chosen, tuning.batch_size, generator(tuning.seed, "shuffle", done))
        batches, draw = [batch.numpy() for batch in shuffled], generator(tuning.seed, "augment", done)
        progress, total = self.log.progress(f"epoch {done + 1}", len(chosen)), 0.0
        self.model.train()
        pictures = train.pictures.batches(self.image_index[batch] for batch in batches)
        for step, (batch, (image_id, prepared)) in enumerate(zip(batches, pictures, strict=True)):
            for group in self.optimiser.param_groups:
                group["lr"] = rate(step)
            found = self.filtered
            loss_of = loss_function(
                loss,
                self.config.filter,
                None if found is None else found.modes,
                scale=lambda: self.model.scale,
                image_id=torch.from_numpy(image_id).to(device),
                hardest=tuning.negatives == "hardest",
                probability=None if found is None else torch.from_numpy(found.probability[batch]).float().to(device),
            )
            changed = augment(self.model.preprocessing.normalise(prepared.to(device)), tuning.augment, draw)
            ids = train.tokens.rows(batch).ids.to(device)
            value = train_step(self.model, self.optimiser, changed, ids, loss_of, grad_clip=tuning.grad_clip)
            total += value * len(batch)
            progress.advance(len(batch), value)
        progress.close()
        return total / sum(map(len, batches))

    def _filter(self, title: str) -> tuple[Filtered, dict[str, Any]]:
        """Filter the training pairs by the model as it is now; say, record and return how good that was."""
        train = self.splits["train"]
        found = filter_given_pairs(self.model, train, self.image_index, self.config.filter)
        figures = filter_figures(found, self.is_matched)
        self._record({f"filter/{name}": value for name, value in figures.items()}, event="filter")
        said = f"{title}: keeps {100 * figures['share_kept']:.1f} % of the pairs, d' {figures['separation']:.2f}"
        if "residual_noise" in figures:
            auc = "-" if figures["auc"] is None else f"{figures['auc']:.3f}"
            said += f", residual noise {figures['residual_noise']:.3f}, AUC {auc}"
        self.log.say(said)
        if found.modes.note:
            self.log.say(f"warning: {found.modes.note}")
        return found, figures

    def _validate(self, title: str) -> dict[str, Any]:
        ranked = rank(self.model, self.splits["dev"], self.tuning.fold_images)
        self._record({"dev/rSum": ranked.whole.r_sum}, event="dev")
        self.log.say(ranked_tables("dev", {title: ranked}, self.tuning.fold_images))
        return ranked.as_dict()

    def _close_epoch(self, title: str, values: dict[str, Any]) -> dict[str, Any]:
        """Count the epoch, record it, validate; return dev's results."""
        self.run.epochs_done += 1
        self._record({f"train/{name}": value for name, value in values.items()}, event="epoch")
        return self._validate(f"{title}, loss {values['loss']:.3f}")

    def _keep_best(self, epoch: int, dev: dict[str, Any]) -> None:
        if not self.run.best or dev["rSum"] > self.run.best["dev"]["rSum"]:
            self.run.best = {"epoch": epoch, "dev": dev}
            self.model.save(self.folder / MODEL)

    def _record(self, values: dict[str, Any], *, event: str) -> None:
        self.log.scalars(self.run.epochs_done, {"event": event, **values})

    def finish(self) -> dict[str, Any]:
        """Look at all training pairs once more, test the model that dev chose, write results.json."""
        _, last = self._filter("after training")
        best = placed(load_clip(self.folder / MODEL, self.config.model.precision), self.model.device)
        ranked = rank(best, self.splits["test"], self.tuning.fold_images)
        title = f"{self.tuning.clip_method}, epoch {self.run.best['epoch']}"
        self.log.say(ranked_tables("test", {title: ranked}, self.tuning.fold_images))
        results = {
            "clip_method": self.tuning.clip_method,
            "reconstruction": "DSDMR's loss and trainer are unpublished; numbers are not a reproduction",
            "clip": self.config.model.clip,
            "noise": vars(self.noise),
            "seed": self.tuning.seed,
            "num_networks": 1,
            "epoch": self.run.best["epoch"],
            "chosen_on": "dev",
            "dev": self.run.best["dev"],
            "test": ranked.as_dict(),
            "first_filter": self.run.first_filter or None,
            "after_training": last,
            "seconds": time.monotonic() - self._started,
        }
        write_json(self.folder / RESULTS, results)
        self.log.close()
        return results
