"""Noisy correspondence: which image each training caption is given, and the files that say so.

Two protocols hide behind the same "20 %":
- caption: int(ratio * captions) captions are picked and their images shuffled among themselves (NCR, BiCro, MGCS);
- image: int(ratio * images) images are picked and shuffled; all captions of an image move together (RCL, DECL, L2RM).
The shuffle is unrestricted, so that a few picked pairs stay matched.

An index says which image each caption is trained with: (captions,) image numbers. Published files come in three kinds:
(captions,) shuffled by caption (NCR, BiCro, PC2, MGCS; CRCL's code takes such), (captions,) shuffled by image (L2RM),
(images,) shuffled by image (RCL, DECL). The length tells the last kind from the others; those two look alike and are
measured apart.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_utils.arrays import open_npy
from runtime.errors import InputError
from runtime.files import whole_file, write_json
from runtime.flags import check_choices, check_range, flag


@dataclass(frozen=True)
class NoiseConfig:
    """How many training pairs are mismatched, and how."""

    noise_ratio: float = flag(0.0, "share of training captions that get another image, in [0, 1)", metavar="RATIO")
    noise_protocol: str = flag("caption", "what is shuffled", choices=("caption", "image"))
    noise_seed: int = flag(123, "seed of the shuffle, apart from --seed: runs of several seeds share one noise")
    noise_file: str | None = flag(
        None, "index file (.npy) to use; with --noise_ratio, one that is not there is made", metavar="FILE"
    )

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


def make_index(image_of_caption: np.ndarray, ratio: float, protocol: str, seed: int) -> np.ndarray:
    """Return (captions,) int64: the image of each caption after shuffling.

    Args:
        image_of_caption: (captions,) int64, the image each was written for; any number of them an image.
        ratio: share of captions, or of images, that is shuffled.
        protocol: `caption` or `image`.
        seed: of the shuffle.

    `RandomState` is used because numpy guarantees its stream for ever: the same seed gives the same index on every
    machine and numpy version.
    """
    random = np.random.RandomState(seed)
    own = image_of_caption.copy()
    if protocol == "caption":
        picked = random.permutation(len(own))[: int(ratio * len(own))]
        own[picked] = own[random.permutation(picked)]
        return own
    num_images = int(own.max()) + 1
    moved = np.arange(num_images)
    picked = random.permutation(num_images)[: int(ratio * num_images)]
    moved[picked] = random.permutation(picked)
    return moved[own]


def measure(index: np.ndarray, image_of_caption: np.ndarray, asked_ratio: float) -> NoiseReport:
    """Tell an index's protocol and true ratio.

    With several captions an image, the image protocol gives all captions of an image that is hit the same wrong image;
    the caption protocol does so by rare chance, at any ratio.
    """
    is_wrong = index != image_of_caption
    if not is_wrong.any():
        kind = "none"
    else:
        kind = "image" if share_moved_together(index, image_of_caption) > 0.5 else "caption"
    return NoiseReport(protocol=kind, asked_ratio=asked_ratio, measured_ratio=float(is_wrong.mean()))


def share_moved_together(index: np.ndarray, image_of_caption: np.ndarray) -> float:
    """Return the share, among images with a mismatched caption, of those whose captions all got one and the same image.

    Images of one caption say nothing and are left out. 0 where nothing is mismatched.
    """
    first = np.unique(image_of_caption, return_index=True)[1]
    is_split = np.bincount(image_of_caption, index != index[first][image_of_caption]) > 0
    hit = (np.bincount(image_of_caption) > 1) & (np.bincount(image_of_caption, index != image_of_caption) > 0)
    return float((~is_split[hit]).mean()) if hit.any() else 0.0


@dataclass(frozen=True)
class IndexFile:
    """What a file holds.

    Attributes:
        index: (captions,) int64.
        entries: how many the file has: one a caption or one an image.
        dtype: their type.
    """

    index: np.ndarray
    entries: int
    dtype: str


def read_index(path: Path, image_of_caption: np.ndarray) -> IndexFile:
    """Read an index file, one entry a caption or one an image.

    Raises:
        InputError: not an integer npy file, another length, or entries that are no image.
    """
    index = open_npy(path, f"--noise_file {path}")
    captions, num_images = len(image_of_caption), int(image_of_caption.max()) + 1
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
    entries, dtype, index = len(index), str(index.dtype), index.astype(np.int64)
    return IndexFile(index if entries == captions else index[image_of_caption], entries, dtype)


def sidecar_of(path: Path) -> Path:
    """Return where the JSON beside an index file is, or would be."""
    return path.with_suffix(".json")


def save_index(path: Path, index: np.ndarray, report: NoiseReport, seed: int) -> None:
    """Write an index and, beside it, a JSON that says what it is.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.save(file, index)
    except OSError as error:
        raise InputError(f"--noise_file {path} cannot be written: {error.strerror}") from None
    about = {"protocol": report.protocol, "ratio": report.asked_ratio, "seed": seed}
    write_json(sidecar_of(path), {**about, "measured_mismatch": report.measured_ratio, "sha256": digest_of(path)})


def digest_of(path: Path) -> str:
    """Return a hash of an index file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def inject(
    config: NoiseConfig, image_of_caption: np.ndarray, *, has_real_noise: bool = False
) -> tuple[np.ndarray, NoiseReport]:
    """Return the image of each training caption, and what was measured.

    Args:
        config: what is asked for.
        image_of_caption: (captions,) int64, the image each was written for.
        has_real_noise: the data set takes no noise.

    Raises:
        InputError: an index file that does not fit, one that is not there and no ratio to make it by, or noise asked
            of a data set with real noise.
    """
    if has_real_noise and (config.noise_ratio or config.noise_file):
        raise InputError("this data set has real noise: --noise_ratio must be 0 and --noise_file left out")
    path = Path(config.noise_file) if config.noise_file else None
    if path is not None and path.is_file():
        index = read_index(path, image_of_caption).index
        return index, measure(index, image_of_caption, config.noise_ratio)
    if path is not None and not config.noise_ratio:
        raise InputError(f"--noise_file {path} is not there; name an index that is, or have one made by --noise_ratio")
    index = make_index(image_of_caption, config.noise_ratio, config.noise_protocol, config.noise_seed)
    report = measure(index, image_of_caption, config.noise_ratio)
    if path is not None:
        save_index(path, index, report, config.noise_seed)
    return index, report
