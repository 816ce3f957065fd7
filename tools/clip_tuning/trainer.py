"""Pretrain, filter, fine-tune, validate, test, and go on where a run was interrupted.

Epochs are counted through: first those of pretraining, then those of fine-tuning. After each, all that is needed to go
on is written to `state.pt`. Every random choice comes from a generator of the seed and the epoch, so that a resumed run
takes the steps of the uninterrupted one. Legend: C training pairs, B pairs of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_utils.loaders import MIN_BATCH, shuffled_batches
from methods.blocks.similarity_modes import SimilarityModes
from runtime.checkpoint import save_checkpoint
from runtime.errors import InputError
from runtime.files import write_json
from runtime.log import RunLog
from runtime.run_folder import claim
from runtime.seed import generator, seed_everything
from tools.clip_tuning.config import ClipRunConfig, resumed
from tools.clip_tuning.evaluate import filter_figures, filter_given_pairs, rank, ranked_tables
from tools.clip_tuning.model import load_clip, placed
from tools.clip_tuning.pairs import augment
from tools.clip_tuning.setup import (
    CONFIG,
    RESULTS,
    STATE,
    ClipData,
    RunState,
    build_optimiser,
    load_state,
    pretraining_rate,
)
from tools.clip_tuning.step import CLIP_METHODS, loss_function, random_state, set_random_state, train_step
from tools.filter.filtering import Filtered

MODEL, PRETRAINED = "model", "pretrained"
"""Folders of the model that dev chose, and of the model after pretraining."""


class ClipTrainer:
    """Train as `config` says and write everything into `folder`; with a `state`, go on from there."""

    def __init__(
        self, config: ClipRunConfig, data: ClipData, folder: Path, state: dict[str, Any] | None = None
    ) -> None:
        self.config, self.tuning, self.data, self.folder = config, config.tuning, data, folder
        self.row = CLIP_METHODS[config.tuning.clip_method]
        self.model = data.model
        seed_everything(self.tuning.seed)  # dropout, if the model has any
        self.optimiser = build_optimiser(self.model, self.tuning)
        self.filtered: Filtered | None = None
        self.run = RunState()
        if state is not None:
            self._restore(state)
        self._started = time.monotonic() - self.run.seconds
        self.log = RunLog(folder, self.run.log_size or None)

    @classmethod
    def start(cls, config: ClipRunConfig) -> ClipTrainer:
        """Open data and model and claim a folder for a new run."""
        data = ClipData.open(config)
        folder = claim(Path(config.tuning.output_dir), config.run_name())
        write_json(folder / CONFIG, asdict(config))
        return cls(config, data, folder)

    @classmethod
    def resume(cls, given: ClipRunConfig, folder: Path) -> ClipTrainer:
        """Open an interrupted run.

        Raises:
            InputError: there is none, it is finished, or a flag asks for something else.
        """
        config = resumed(given, ClipRunConfig.read(folder / CONFIG), folder)
        if (folder / RESULTS).is_file():
            raise InputError(f"--resume {folder}: that run is finished; its results are in {RESULTS}")
        state = load_state(folder)  # before the pictures are opened
        return cls(config, ClipData.open(config), folder, state)

    def _save(self) -> None:
        self.run.seconds, self.run.log_size = time.monotonic() - self._started, self.log.size()
        content = {
            "run": vars(self.run),
            "network": self.model.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "filtered": None,
            "random": random_state(self.model.device),
        }
        if (found := self.filtered) is not None:
            arrays = {
                name: torch.from_numpy(getattr(found, name)) for name in ("similarity", "probability", "is_clean")
            }
            content["filtered"] = {**arrays, "modes": found.modes.as_dict()}
        save_checkpoint(self.folder / STATE, content)

    def _restore(self, state: dict[str, Any]) -> None:
        self.run = state["run"]
        self.model.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if (found := state["filtered"]) is not None:
            arrays = {name: value.numpy() for name, value in found.items() if name != "modes"}
            self.filtered = Filtered(**arrays, modes=SimilarityModes.from_dict(found["modes"]))
        set_random_state(state["random"], self.model.device)

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
        epoch, everything = self.run.epochs_done, np.arange(len(self.data.image_index))
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
            self.filtered, figures = self._filter(f"filter {epoch + 1}", self.filtered)
            self.run.first_filter = self.run.first_filter or figures
        chosen = np.arange(len(self.data.image_index))
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
        tuning, train, done, device = self.tuning, self.data.splits["train"], self.run.epochs_done, self.model.device
        if len(chosen) < MIN_BATCH:
            raise InputError(
                f"{len(chosen)} pairs are too few to train on; lower --p_threshold or take --filter_pool full"
            )
        shuffled = shuffled_batches(chosen, tuning.batch_size, generator(tuning.seed, "shuffle", done))
        batches, draw = [batch.numpy() for batch in shuffled], generator(tuning.seed, "augment", done)
        modes = None if self.filtered is None else self.filtered.modes
        progress, total = self.log.progress(f"epoch {done + 1}", len(chosen)), 0.0
        self.model.train()
        pictures = train.pictures.batches(self.data.image_index[batch] for batch in batches)
        for step, (batch, (image_id, prepared)) in enumerate(zip(batches, pictures, strict=True)):
            for group in self.optimiser.param_groups:
                group["lr"] = rate(step)
            probability = None
            if self.filtered is not None:
                probability = torch.from_numpy(self.filtered.probability[batch]).float().to(device)
            loss_of = loss_function(
                loss,
                self.config.filter,
                modes,
                scale=lambda: self.model.scale,
                image_id=torch.from_numpy(image_id).to(device),
                hardest=tuning.negatives == "hardest",
                probability=probability,
            )
            changed = augment(self.model.preprocessing.normalise(prepared.to(device)), tuning.augment, draw)
            ids = train.tokens.rows(batch).ids.to(device)
            value = train_step(
                self.model, self.optimiser, changed, ids, loss_of, chunk=tuning.accumulate, grad_clip=tuning.grad_clip
            )
            total += value * len(batch)
            progress.advance(len(batch), value)
        progress.close()
        return total / sum(map(len, batches))

    def _filter(self, title: str, earlier: Filtered | None) -> tuple[Filtered, dict[str, Any]]:
        """Filter the training pairs by the model as it is now; say, record and return how good that was."""
        train = self.data.splits["train"]
        found = filter_given_pairs(self.model, train, self.data.image_index, self.config.filter, earlier)
        figures = filter_figures(found, self.data.is_matched)
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
        ranked = rank(self.model, self.data.splits["dev"], self.tuning.fold_images)
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
        _, last = self._filter("after training", None)
        best = placed(load_clip(self.folder / MODEL, self.config.model.precision), self.model.device)
        ranked = rank(best, self.data.splits["test"], self.tuning.fold_images)
        title = f"{self.tuning.clip_method}, epoch {self.run.best['epoch']}"
        self.log.say(ranked_tables("test", {title: ranked}, self.tuning.fold_images))
        results = {
            "clip_method": self.tuning.clip_method,
            "reconstruction": "DSDMR's loss and trainer are unpublished; numbers are not a reproduction",
            "clip": self.config.model.clip,
            "noise": vars(self.data.noise),
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
