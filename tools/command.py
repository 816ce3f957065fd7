"""What the commands of tools/ share: flags to configurations, output that is whole or not there, opened checkpoints."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from data_utils.catalog import DataConfig, protocol
from data_utils.noise import NoiseConfig, NoiseReport, inject
from data_utils.precomputed import PrecomputedSplit
from data_utils.stored import StoredData, open_split, stored_data
from models.ensemble import restore
from models.matcher import Matcher
from runtime.checkpoint import load_checkpoint
from runtime.device import choose_device
from runtime.errors import InputError
from runtime.flags import OneLineParser, add_flags, flag, from_namespace
from tools.filter.files import split_name


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


def check_output(folder: Path, inputs: Collection[str], *, overwrite: bool) -> None:
    """Find out early whether results may go to `folder`.

    Raises:
        InputError: it is a file, holds something and may not be overwritten, or holds one of the inputs.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file; name a folder")
    if any(split_name(spec)[0].resolve().parent == folder.resolve() for spec in inputs):
        raise InputError(f"--output {folder} holds one of the input files; name another folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InputError(f"--output {folder} is not empty; name another folder, or give --overwrite")


def _remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_at_once(folder: Path, known: Collection[str]) -> Iterator[Path]:
    """Give a temporary folder inside `folder` whose files move up when all are written.

    Args:
        folder: where the files go; made if it is not there, removed again if nothing comes.
        known: names of files or folders that an earlier run may have left there: those not written anew are removed.

    Raises:
        InputError: the place cannot be written; nothing new is left there.
    """
    is_new, temporary = not folder.exists(), None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
        yield temporary
        written = sorted(temporary.iterdir())
        for path in written:
            if (folder / path.name).is_dir():
                _remove(folder / path.name)  # a file is written over
            os.replace(path, folder / path.name)
        for name in set(known) - {path.name for path in written}:
            _remove(folder / name)
    except OSError as error:
        raise InputError(f"--output {folder} cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is empty


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


@dataclass(frozen=True)
class StoredNoise:
    """The noise that a checkpoint was trained with, which its training split has been given.

    Attributes:
        report: measured.
        is_known: which pairs are mismatched is known: the suite or an index file moved them. Checkpoints of other
            programs do not record that; their pairs are as the files have them.
    """

    report: NoiseReport
    is_known: bool


def give_noise(
    stored: StoredData, checkpoint: Mapping[str, Any], path: str, *, noise_file: str | None = None
) -> StoredNoise:
    """Give an opened training split the images that a checkpoint was trained with.

    Args:
        stored: the training split.
        checkpoint: tells ratio, protocol and seed, or an index file.
        path: where it is.
        noise_file: an index file to use instead.

    Raises:
        InputError: the index file is not there, or does not fit.
    """
    has_real_noise, recorded = protocol(stored.data_name).has_real_noise, checkpoint["config"].get("noise")
    known = {field.name for field in fields(NoiseConfig)}
    told = {name: value for name, value in (recorded or {}).items() if name in known}
    told["noise_file"] = noise_file or told.get("noise_file")
    if told["noise_file"] is not None and not Path(told["noise_file"]).is_file():
        source = "--noise_file" if noise_file else f"{path} was trained with the noise index"
        raise InputError(
            f"{source} {told['noise_file']}, which is not there; copy it there (tools.audit takes another --noise_file)"
        )
    split = stored.split
    index, report = inject(NoiseConfig(**told), split.image_of_caption, has_real_noise=has_real_noise)
    split.set_images(index)
    is_recorded = recorded is not None or noise_file is not None
    return StoredNoise(report, is_known=is_recorded and not has_real_noise)
