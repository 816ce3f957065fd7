"""A noise index inspected, or made: which image each training caption is given.

    python -m tools.noise inspect FILE --data_name f30k_precomp --data_path /data
    python -m tools.noise make --noise_file noise_0.4.npy --noise_ratio 0.4 --data_name f30k_precomp ...

`inspect` ends with 0 if the index fits the data, with 1 if the JSON beside it says otherwise than it, with 2 if it
cannot be used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.captions import read_caption_file
from data_utils.catalog import DataConfig, locate, protocol
from data_utils.noise import (
    IndexFile,
    NoiseConfig,
    NoiseReport,
    digest_of,
    inject,
    measure,
    read_index,
    share_moved_together,
    sidecar_of,
)
from data_utils.precomputed import Counts, count
from data_utils.regions import RegionStore
from runtime.errors import InputError, exit_on_input_error
from runtime.files import parse_json
from runtime.flags import word
from tools.command import parsed

MAX_RATIO_ERROR = 0.01
"""A measured ratio further from the asked one than this is pointed out."""


def is_shuffle(index: np.ndarray, image_of_caption: np.ndarray) -> bool:
    """Tell whether captions changed their images among themselves, or images their captions, all of them together."""
    if np.array_equal(np.sort(index), np.sort(image_of_caption)):
        return True
    images, first = np.unique(image_of_caption, return_index=True)
    moves_whole = np.array_equal(index, index[first][image_of_caption])
    return moves_whole and np.array_equal(np.sort(index[first]), images)


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the JSON beside an index file, None if there is none.

    Raises:
        InputError: it is no JSON object.
    """
    place = sidecar_of(path)
    if not place.is_file():
        return None
    try:
        content = parse_json(place.read_bytes())
    except ValueError as error:
        raise InputError(f"{place}, beside the index, is not JSON ({error}); delete it or write it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{place}, beside the index, holds no names and values; delete it or write it again")
    return content


def disagreements(path: Path, report: NoiseReport, sidecar: dict[str, Any]) -> list[str]:
    """Return what a sidecar says otherwise than the index file, in words; none if they agree."""
    found: dict[str, Any] = {"sha256": digest_of(path), "protocol": report.protocol}
    faults = [
        f"{name} is {sidecar[name]} beside it, {value} in the index"
        for name, value in found.items()
        if name in sidecar and sidecar[name] != value
    ]
    told = sidecar.get("measured_mismatch")
    if isinstance(told, (int, float)) and abs(told - report.measured_ratio) > 1e-9:
        faults.append(f"measured_mismatch is {told:g} beside it, {report.measured_ratio:g} in the index")
    return faults


@dataclass(frozen=True)
class Command:
    """What `python -m tools.noise` is to do."""

    action: str = word("inspect: tell what an index file does; make: write one", choices=("inspect", "make"))
    file: str | None = word(
        "the index file to inspect, or to write (instead of --noise_file)", optional=True, metavar="FILE"
    )


def training_counts(data: DataConfig) -> tuple[Path, Counts]:
    """Return a data set's folder and the counts of its training split; no vocabulary is needed.

    Raises:
        InputError: files missing or broken, or counts that do not fit together.
    """
    folder = locate(data)
    captions = read_caption_file(folder, "train")
    return folder, count(RegionStore(folder, "train"), captions)


def kind(file: IndexFile, report: NoiseReport, counts: Counts) -> str:
    """Say what an index is and who publishes such."""
    if report.protocol == "none":
        return "none: every caption has its own image"
    if counts.captions_per_image == 1:
        return "caption = image: with one caption an image the two protocols are the same"
    if report.protocol == "caption":
        return "caption, as NCR, BiCro, PC2 and MGCS publish, and as CRCL's code takes"
    by = "RCL and DECL publish" if file.entries == counts.images else "L2RM publishes"
    return f"image, as {by}"


def inspect(path: Path, data: DataConfig, noise: NoiseConfig) -> bool:
    """Print what an index file does to a data set's training pairs; return whether the JSON beside it agrees.

    Raises:
        InputError: the file does not fit the data.
    """
    if not path.is_file():
        raise InputError(f"no index file at {path}; give one, or make it: python -m tools.noise make {path} ...")
    folder, counts = training_counts(data)
    file = read_index(path, counts.image_of_caption)
    own = counts.image_of_caption
    report = measure(file.index, own, noise.noise_ratio)
    wrong = round(report.measured_ratio * len(file.index))
    per = "an image" if file.entries == counts.images else "a caption"
    print(f"{path}: {file.entries} entries, {file.dtype}, one {per}")
    print(f"{folder} train: {counts.images} images, {counts.each} captions an image")
    print(f"protocol: {kind(file, report, counts)}")
    print(f"mismatched: {100 * report.measured_ratio:.2f} % of the captions ({wrong} of {len(file.index)})")
    if counts.captions_per_image != 1 and wrong:
        together = share_moved_together(file.index, own)
        print(f"moved together: all captions of {100 * together:.2f} % of the images that are hit")
    print(f"a shuffle: {'yes' if is_shuffle(file.index, own) else 'no: some images are used more often than others'}")
    if noise.noise_ratio and abs(report.measured_ratio - noise.noise_ratio) > MAX_RATIO_ERROR:
        print(f"warning: --noise_ratio is {noise.noise_ratio:g}")
    if protocol(data.data_name).has_real_noise:
        print(f"warning: {data.data_name} has real noise; run.py takes no --noise_file for it")
    sidecar = read_sidecar(path)
    if sidecar is None:
        print(f"{sidecar_of(path).name}: not there")
        return True
    faults = disagreements(path, report, sidecar)
    told = f"ratio {sidecar.get('ratio')}, seed {sidecar.get('seed')}"
    print(f"{sidecar_of(path).name}: {'disagrees: ' + '; '.join(faults) if faults else f'agrees ({told})'}")
    return not faults


def make(path: Path, data: DataConfig, noise: NoiseConfig) -> None:
    """Write the index that run.py would make with the same flags, and its JSON.

    Raises:
        InputError: the file exists, no ratio is given, or the data set has real noise.
    """
    if not noise.noise_ratio:
        raise InputError("make needs --noise_ratio: the share of training captions that get another image, above 0")
    for place in (path, sidecar_of(path)):
        if place.exists():
            raise InputError(f"{place} exists; an index is not written over: inspect it, delete it or name another")
    _, counts = training_counts(data)
    real = protocol(data.data_name).has_real_noise
    config = replace(noise, noise_file=str(path))
    _, report = inject(config, counts.image_of_caption, has_real_noise=real)
    print(f"{path}: {report.protocol} noise, {100 * report.measured_ratio:.2f} % of the captions mismatched")


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Inspect an index file or make one."""
    kinds = {"what to do": Command, "data": DataConfig, "noise, as for run.py": NoiseConfig}
    command, data, noise = parsed("tools.noise", "Inspect a noise index, or make one.", argv, kinds)
    if (command.file is None) == (noise.noise_file is None):
        raise InputError("name the index file, once: after the action, or with --noise_file")
    path = Path(command.file or noise.noise_file or "")
    if command.action == "make":
        make(path, data, noise)
    elif not inspect(path, data, noise):
        sys.exit(1)


if __name__ == "__main__":
    main()
