"""What the commands of tools/ share: flags to configurations, files that can be written, a checkpoint with its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_utils.catalog import DataConfig
from data_utils.precomputed import PrecomputedSplit
from data_utils.stored import StoredData, open_split, stored_data
from models.matcher import Matcher
from models.restored import restore
from runtime.checkpoint import load_checkpoint
from runtime.device import choose_device
from runtime.errors import InputError
from runtime.flags import OneLineParser, add_flags, flag, from_namespace


def parsed(
    module: str, description: str, argv: Sequence[str] | None, groups: Mapping[str, type], epilog: str | None = None
) -> list[Any]:
    """Return the configurations of a command, one for each group of flags.

    Args:
        module: which `python -m` runs.
        description: what it does, for --help.
        argv: the command line; None is the program's own.
        groups: the title of each group -> the dataclass of its flags.
        epilog: what stands below the flags in --help.

    Raises:
        InputError: a flag is wrong.
    """
    parser = OneLineParser(prog=f"python -m {module}", description=description, epilog=epilog)
    for title, kind in groups.items():
        add_flags(parser, title, kind)
    namespace = parser.parse_args(argv)
    return [from_namespace(kind, namespace) for kind in groups.values()]


def check_writable(flag_name: str, path: str | None) -> None:
    """Raise `InputError` unless a file can be written there; nothing is wrong with None."""
    if path is not None and (Path(path).is_dir() or not Path(path).resolve().parent.is_dir()):
        raise InputError(f"--{flag_name} {path} cannot be written: it is a folder, or its folder does not exist")


@dataclass(frozen=True)
class PlacesConfig:
    """Flags that name the data of a checkpoint, where they are not those of its training, and what computes."""

    data_name: str | None = flag(None, "data set (default: the checkpoint's)")
    data_path: str | None = flag(
        None, "folder that holds the data set's folder (default: the checkpoint's)", metavar="DIR"
    )
    vocab_path: str | None = flag(None, "folder of the vocabulary (default: the checkpoint's)", metavar="DIR")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint with its networks and one split of its data.

    Attributes:
        checkpoint: its content.
        path: where it is.
        matchers: its networks, on the device.
        data: where its data are.
        stored: the split.
        device: where the networks are.
    """

    checkpoint: dict[str, Any]
    path: str
    matchers: list[Matcher]
    data: DataConfig
    stored: StoredData
    device: torch.device

    @property
    def split(self) -> PrecomputedSplit:
        """The split."""
        return self.stored.split

    @property
    def folder(self) -> Path:
        """The data set's folder."""
        return self.split.regions.path.parent


def open_checkpoint(path: str, split: str, places: PlacesConfig) -> OpenedCheckpoint:
    """Open a checkpoint and a split for it.

    Raises:
        InputError: they do not fit together, or are not there.
    """
    checkpoint, device = load_checkpoint(path), choose_device(places.gpu)
    matchers = restore(checkpoint, path)
    named = {"data_name": places.data_name, "data_path": places.data_path, "vocab_path": places.vocab_path}
    data = stored_data(checkpoint, path, **named)
    stored = StoredData(open_split(data, split, checkpoint, path), data.data_name)
    for matcher in matchers:
        matcher.to(device)
    return OpenedCheckpoint(checkpoint, path, matchers, data, stored, device)
