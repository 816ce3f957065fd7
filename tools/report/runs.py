"""Folders of runs, read for a report, finished or not; and the networks and data that a report computes with.

Legend: N training pairs.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_utils.captions import read_captions
from data_utils.catalog import REAL_NOISE, DataConfig, locate
from data_utils.noise import NoiseConfig
from methods.blocks.mixture import Fitted, NormalMixture
from models.ensemble import EncodedSplit, encode_split, restore
from models.matcher import Matcher, MatcherConfig
from runtime.checkpoint import load_checkpoint
from runtime.errors import InputError
from runtime.flags import check_range, flag
from runtime.log import ARRAYS, METRICS
from tools.command import check_writable
from tools.pages.pictures import Thumbnails, find_pictures
from training.checkpointing import RESULTS
from training.data import RunData, open_data
from training.reports import DIAGNOSTIC

CONFIG, BEST = "config.json", "checkpoint_dev_best.pth.tar"
EPOCHS_DONE = "epochs done, warm-up included"
"""What axes of epochs count."""

_DIVISION = re.compile(r"epoch_(\d+)_(\w+)\.npz")


@dataclass(frozen=True)
class StoredDivision:
    """A division as the run left it.

    Attributes:
        epoch: how many epochs the run had done.
        network: `A`, `B`.
        signal, probability: (N,).
        is_clean: (N,) bool.
        is_matched: (N,) bool, the truth; None where it is not known.
        diagnostics: named (N,) values.
        fitted: the mixture, if one was fitted.
    """

    epoch: int
    network: str
    signal: np.ndarray
    probability: np.ndarray
    is_clean: np.ndarray
    is_matched: np.ndarray | None = None
    diagnostics: Mapping[str, np.ndarray] = field(default_factory=dict)
    fitted: Fitted | None = None


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: where it is.
        label: what the report calls it; differs from run to run.
        config: its config.json.
        results: its results.json; None while it goes on.
        records: the lines of its metrics.jsonl.
    """

    folder: Path
    label: str
    config: dict[str, Any]
    results: dict[str, Any] | None
    records: list[dict[str, Any]]

    @property
    def data_name(self) -> str:
        """The data set."""
        return self.config["data"]["data_name"]

    @property
    def checkpoint(self) -> Path | None:
        """The networks that were best on dev, if any were saved yet."""
        path = self.folder / BEST
        return path if path.is_file() else None

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the records of one kind: `loss`, `dev`, `division`."""
        return [record for record in self.records if record.get("event") == name]

    def title(self, epochs_done: int) -> str:
        """Return what the run calls the epoch that it had then done: `epoch 2/4`, `warm-up 1/1`."""
        known = {record["step"]: str(record["title"]) for record in self.events("dev") if record.get("title")}
        return known.get(epochs_done, f"{epochs_done} epochs, warm-up included")

    @cached_property
    def divisions(self) -> dict[tuple[int, str], Path]:
        """Files of the divisions by epoch and network, in order."""
        found = {}
        for path in (self.folder / ARRAYS).glob("*.npz"):
            match = _DIVISION.fullmatch(path.name)
            if match:
                found[int(match[1]), match[2]] = path
        return dict(sorted(found.items()))

    def division(self, epoch: int, network: str) -> StoredDivision:
        """Read a division.

        Raises:
            InputError: its file is damaged.
        """
        path = self.divisions[epoch, network]
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            parts = {name: arrays[name] for name in ("signal", "probability", "is_clean")}
            fitted = Fitted.from_arrays(arrays) or self._modes(epoch, network)
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is damaged ({error}); delete it, and the report leaves that epoch out") from None
        prefix = len(DIAGNOSTIC)
        named = {name[prefix:]: value.astype(float) for name, value in arrays.items() if name.startswith(DIAGNOSTIC)}
        return StoredDivision(
            epoch, network, **parts, is_matched=arrays.get("is_matched"), diagnostics=named, fitted=fitted
        )

    def last_divisions(self) -> list[StoredDivision]:
        """Read every network's last division."""
        last = {network: epoch for epoch, network in self.divisions}
        return [self.division(epoch, network) for network, epoch in sorted(last.items())]

    def _modes(self, epoch: int, network: str) -> Fitted | None:
        """Return the two modes that a DSDMR division recorded as figures, as a mixture of its signal.

        Its signal is minus the similarity, on which the modes were fitted as they are.
        """
        for record in self.events("division"):
            if record["step"] == epoch and record["network"] == network:
                figures = {name.rpartition("/")[2]: value for name, value in record.items()}
                mean, std, weight = (
                    np.array([figures.get(f"{side}_{name}", np.nan) for side in ("clean", "noisy")], dtype=float)
                    for name in ("mean", "std", "weight")
                )
                if np.isfinite([mean, std, weight]).all() and (std > 0).all() and (weight > 0).all():
                    return Fitted("gmm", 0.0, 1.0, NormalMixture(-mean, std**2, weight))
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); give the folder of a run as run.py left it") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not what run.py wrote; give the folder of a run as run.py left it")
    return content


def _records(path: Path) -> list[dict[str, Any]]:
    """Return a log's records; a last line that is still being written is left out."""
    if not path.is_file():
        return []
    records = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise InputError(f"{path} line {number} is not JSON; the log is damaged: delete that line") from None
    return [record for record in records if isinstance(record, dict)]


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        InputError: no such folder, not a run's, nothing done in it yet, or a damaged file.
    """
    if not folder.is_dir():
        raise InputError(
            f"no run in {folder}: there is no such folder; give a folder that run.py wrote, as output/NAME"
        )
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is not the folder of a run: it has no {CONFIG}; give one that run.py wrote")
    config = _read_json(folder / CONFIG)
    if any(not isinstance(config.get(name), dict) for name in ("data", "noise", "matcher", "training")):
        raise InputError(f"{folder / CONFIG} lacks settings; give the folder of a run of run.py")
    results = _read_json(folder / RESULTS) if (folder / RESULTS).is_file() else None
    run = Run(folder, folder.resolve().name, config, results, _records(folder / METRICS))
    if run.checkpoint is None and not run.records:
        raise InputError(
            f"{folder} has neither a checkpoint nor records: the run has done nothing yet; try again later"
        )
    return run


def _short(run: Run, with_data: bool, with_noise: bool, with_seed: bool) -> str:
    parts = [str(run.config.get("method_name")), run.config["matcher"]["module_name"]]
    noise = "real noise" if run.data_name in REAL_NOISE else f"noise {run.config['noise']['noise_ratio']:g}"
    parts += [run.data_name] * with_data + [noise] * with_noise
    return " ".join(parts + [f"seed {run.config['training'].get('seed')}"] * with_seed)


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Read several runs; they are called by what tells them apart, by their folders if nothing else does.

    Raises:
        InputError: as `read_run`, or one folder is given twice.
    """
    runs: list[Run] = []
    for folder in folders:
        if any(folder.resolve() == run.folder.resolve() for run in runs):
            raise InputError(f"{folder} is given twice; give each run once")
        runs.append(read_run(folder))
    told = (
        len({run.data_name for run in runs}) > 1,
        len({run.config["noise"]["noise_ratio"] for run in runs}) > 1,
        len({run.config["training"].get("seed") for run in runs}) > 1,
    )
    labels = [_short(run, *told) for run in runs]
    if len(set(labels)) < len(labels):
        labels = [run.label for run in runs]
    if len(set(labels)) < len(labels):
        labels = [str(run.folder) for run in runs]
    return [Run(r.folder, label, r.config, r.results, r.records) for r, label in zip(runs, labels, strict=True)]


@dataclass(frozen=True)
class ReportConfig:
    """Flags of tools.report."""

    output: str = flag("report.html", "the file to write (an existing one is replaced)", metavar="FILE")
    pictures: str | None = flag(
        None,
        "folder that the paths in {split}_images.txt start from (default: the data set's, or what was extracted from)",
        metavar="DIR",
    )
    no_pictures: bool = flag(False, "leave out everything with pictures")
    grid: int | None = flag(
        None, "regions are grid x grid cells of the picture, row by row (default: so in the embedded set, else boxes)"
    )
    queries: int = flag(6, "so many pictures and captions are searched with, and so many pairs shown of each kind")
    data_path: str | None = flag(
        None, "folder that holds the data set's folder (default: as in training)", metavar="DIR"
    )
    vocab_path: str | None = flag(None, "folder that holds the vocabulary (default: as in training)", metavar="DIR")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")

    def __post_init__(self) -> None:
        check_range(self, "queries", low=1, high=100)
        if self.grid is not None:
            check_range(self, "grid", low=1)
        check_writable("output", self.output)


@dataclass(frozen=True)
class OpenedRun:
    """A run with its networks by name, its data and, if there are any, its pictures.

    Attributes:
        run: its folder.
        matchers: on the device.
        data: with the noise that it was trained with.
        folder: of the data set.
        config: the report's flags.
        device: where the networks run.
        say: told what pictures are missing.
    """

    run: Run
    matchers: dict[str, Matcher]
    data: RunData
    folder: Path
    config: ReportConfig
    device: torch.device
    say: Callable[[str], None]

    def captions(self, split: str) -> list[str]:
        """Return the captions of a split's pairs as they were written."""
        lines = read_captions(self.folder, split)
        return [lines[k] for k in getattr(self.data, split).line_of_caption.tolist()]

    @cached_property
    def galleries(self) -> dict[str, EncodedSplit]:
        """The test split as every network encodes it."""
        return {name: encode_split(m, self.data.test, self.device) for name, m in self.matchers.items()}

    def thumbnails(self, split: str) -> Thumbnails | None:
        """Return the pictures of a split, None if there are none or none are wanted.

        Raises:
            InputError: they do not fit the data.
        """
        if self.config.no_pictures:
            return None
        num_images = getattr(self.data, split).num_images
        found = find_pictures(self.folder, split, num_images, self.config.pictures, self.say)
        return None if found is None else Thumbnails(found)


def open_run(run: Run, config: ReportConfig, device: torch.device, say: Callable[[str], None]) -> OpenedRun:
    """Restore a run's networks and open its data, where the flags or the run say, with its noise.

    Raises:
        InputError: no checkpoint yet, or data that are missing or not those of the run.
    """
    if run.checkpoint is None:
        raise InputError(f"{run.folder} has no checkpoint yet: no epoch has been validated")
    noise = NoiseConfig(**run.config["noise"])
    if noise.noise_file is not None and not Path(noise.noise_file).is_file():
        raise InputError(f"the noise index {noise.noise_file} of {run.folder} is not there any more")
    checkpoint = load_checkpoint(run.checkpoint)
    stored = run.config["data"]
    place = DataConfig(
        data_name=stored["data_name"],
        data_path=config.data_path or stored.get("data_path"),
        vocab_path=config.vocab_path or stored.get("vocab_path"),
    )
    data = open_data(place, noise, MatcherConfig(**run.config["matcher"]))
    if run.config["training"].get("remove_noise"):
        data = data.without_noise()
    if data.vocabulary.digest() != checkpoint["vocabulary_digest"]:
        raise InputError(f"the vocabulary of {run.data_name} is not the one that {run.folder} was trained with")
    matchers = {chr(ord("A") + k): m for k, m in enumerate(restore(checkpoint, str(run.checkpoint)))}
    for matcher in matchers.values():
        matcher.to(device).eval()
    return OpenedRun(run, matchers, data, locate(place), config, device, say)
