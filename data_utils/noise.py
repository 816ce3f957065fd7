"""Noisy correspondence: which image each training caption is given.

Two protocols hide behind the same "20 %":
- caption: int(ratio * captions) captions are picked and their images shuffled among themselves (NCR, BiCro, MGCS);
- image: int(ratio * images) images are picked and shuffled; all captions of an image move together (RCL, DECL, L2RM).
The shuffle is unrestricted, so that a few picked pairs stay matched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_utils.noise_index import NoiseReport, load_index, make_index, measure, save_index
from runtime.errors import InputError
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
        index = load_index(path, image_of_caption)
        return index, measure(index, image_of_caption, config.noise_ratio)
    if path is not None and not config.noise_ratio:
        raise InputError(f"--noise_file {path} is not there; name an index that is, or have one made by --noise_ratio")
    index = make_index(image_of_caption, config.noise_ratio, config.noise_protocol, config.noise_seed)
    report = measure(index, image_of_caption, config.noise_ratio)
    if path is not None:
        save_index(path, index, report, config.noise_seed)
    return index, report
