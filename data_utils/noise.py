"""Noisy correspondence: make it, read it, measure it.

An index says which image each caption is trained with. Two protocols hide behind the same "20 %":
- caption: int(ratio * captions) captions are picked and their images shuffled among themselves (NCR, BiCro, MGCS);
- image: int(ratio * images) images are picked and shuffled; all captions of an image move together (RCL, DECL, L2RM).
The shuffle is unrestricted, so that a few picked pairs stay matched.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.checkpoint import write_json
from runtime.errors import InputError
from runtime.flags import check_choices, check_range, flag


@dataclass(frozen=True)
class NoiseConfig:
    """How many training pairs are mismatched, and how."""

    noise_ratio: float = flag(0.0, "share of training captions that get another image, in [0, 1)")
    noise_protocol: str = flag("caption", "what is shuffled", choices=("caption", "image"))
    noise_seed: int = flag(123, "seed of the shuffle, apart from --seed: runs of several seeds share one noise")
    noise_file: str | None = flag(None, "index file (.npy) to use; if it does not exist it is made and written there")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "noise_ratio", low=0.0, high=1.0, high_open=True)
        check_range(self, "noise_seed", low=0, high=2**32 - 1)


@dataclass(frozen=True)
class NoiseReport:
    """What an index does, measured.

    Attributes:
        protocol: `none`, `caption` or `image`, told from the index itself.
        asked_ratio: the flag's value.
        measured_ratio: share of captions whose image is not their own.
    """

    protocol: str
    asked_ratio: float
    measured_ratio: float


def make_index(num_images: int, captions_per_image: int, ratio: float, protocol: str, seed: int) -> np.ndarray:
    """Return (captions,) int64: the image of each caption after shuffling.

    `RandomState` is used because numpy guarantees its stream for ever: the same seed gives the same index on every
    machine and numpy version.
    """
    random = np.random.RandomState(seed)
    own = np.repeat(np.arange(num_images), captions_per_image)
    if protocol == "caption":
        picked = random.permutation(len(own))[: int(ratio * len(own))]
        own[picked] = own[random.permutation(picked)]
        return own
    moved = np.arange(num_images)
    picked = random.permutation(num_images)[: int(ratio * num_images)]
    moved[picked] = random.permutation(picked)
    return moved[own]


def measure(index: np.ndarray, captions_per_image: int, asked_ratio: float) -> NoiseReport:
    """Tell an index's protocol and true ratio.

    Under the image protocol every image that is hit has all its captions wrong; under the caption protocol hardly any.
    """
    is_wrong = index != np.arange(len(index)) // captions_per_image
    by_image = is_wrong.reshape(-1, captions_per_image)
    hit = by_image.any(axis=1)
    if not hit.any():
        kind = "none"
    else:
        kind = "image" if captions_per_image > 1 and by_image[hit].all(axis=1).mean() > 0.5 else "caption"
    return NoiseReport(protocol=kind, asked_ratio=asked_ratio, measured_ratio=float(is_wrong.mean()))


def load_index(path: Path, num_images: int, captions_per_image: int) -> np.ndarray:
    """Read an index file, one entry a caption or one an image, as (captions,) int64.

    Raises:
        InputError: not an integer npy file, another length, or entries that are no image.
    """
    try:
        index = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"--noise_file {path} is not a numeric npy file: {error}") from None
    captions = num_images * captions_per_image
    if index.ndim != 1 or index.dtype.kind not in "iu" or len(index) not in (captions, num_images):
        raise InputError(
            f"--noise_file {path} has shape {index.shape} and type {index.dtype}; it must be a list of whole numbers, "
            f"one a caption ({captions}) or one an image ({num_images})"
        )
    if index.min() < 0 or index.max() >= num_images:
        raise InputError(
            f"--noise_file {path} holds entries from {index.min()} to {index.max()}; an entry is an image's number, "
            f"0 to {num_images - 1}"
        )
    index = index.astype(np.int64)
    return index if len(index) == captions else np.repeat(index, captions_per_image)


def save_index(path: Path, index: np.ndarray, report: NoiseReport, seed: int) -> None:
    """Write an index and, beside it, a JSON that says what it is.

    Raises:
        InputError: the file cannot be written.
    """
    target = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file:
            np.save(file, index)
        target.replace(path)
        write_json(
            path.with_suffix(".json"),
            {
                "protocol": report.protocol,
                "ratio": report.asked_ratio,
                "seed": seed,
                "measured_mismatch": report.measured_ratio,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            },
        )
    except OSError as error:
        raise InputError(f"--noise_file {path} cannot be written: {error.strerror}") from None


def inject(
    config: NoiseConfig, num_images: int, captions_per_image: int, *, has_real_noise: bool = False
) -> tuple[np.ndarray, NoiseReport]:
    """Return the image of each training caption, and what was measured.

    Raises:
        InputError: an index file that does not fit, or a ratio asked of a data set with real noise.
    """
    if has_real_noise and (config.noise_ratio or config.noise_file):
        raise InputError("this data set has real noise: --noise_ratio must be 0 and --noise_file left out")
    path = Path(config.noise_file) if config.noise_file else None
    if path is not None and path.is_file():
        index = load_index(path, num_images, captions_per_image)
        return index, measure(index, captions_per_image, config.noise_ratio)
    index = make_index(num_images, captions_per_image, config.noise_ratio, config.noise_protocol, config.noise_seed)
    report = measure(index, captions_per_image, config.noise_ratio)
    if path is not None:
        save_index(path, index, report, config.noise_seed)
    return index, report
