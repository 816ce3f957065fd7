"""A checkpoint's pooled embeddings of a split's pairs, as files that `tools.filter` and other programs read.

    python -m tools.filter.pooled --mode_path CHECKPOINT --output DIR --split train
    python -m tools.filter --images DIR/images.npy --captions DIR/captions.npy --truth DIR/truth.npy --output CLEAN

Row k of `images.npy` and `captions.npy` (pairs, D) is the split's pair k: caption k and the image that it was given.
Of the training split these are the pairs the checkpoint was trained on, mismatched ones included, and `truth.npy` says
which are matched, if that is known. Vectors are what the similarity pools: of VSE and GPO their cosine is the score; of
SGR and SAF the self-attention's vectors; of SCAN the means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.ensemble import encode_split
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import check_choices, flag, require
from tools.command import PlacesConfig, check_output, folder_at_once, give_noise, open_checkpoint, parsed

IMAGES, CAPTIONS, TRUTH = "images.npy", "captions.npy", "truth.npy"


@dataclass(frozen=True)
class PooledConfig(PlacesConfig):
    """Flags of what is read and written."""

    mode_path: str | None = flag(None, "checkpoint (required)", metavar="FILE")
    network: str = flag("A", "which of its networks", choices=("A", "B"))
    split: str = flag("train", "split whose pairs are encoded", choices=("train", "dev", "test", "testall"))
    output: str | None = flag(None, "folder for the files (required)", metavar="DIR")
    overwrite: bool = flag(False, "replace what an earlier run left in --output")

    def __post_init__(self) -> None:
        check_choices(self)
        require(self, "mode_path", "name a checkpoint that run.py wrote")
        require(self, "output", "name a folder for the files")


def export(config: PooledConfig) -> str:
    """Encode the pairs and write the files; return a line that says what was written.

    Raises:
        InputError: the checkpoint holds one network only and not the one that was asked for.
    """
    assert config.mode_path is not None and config.output is not None
    output, number = Path(config.output), "AB".index(config.network)
    check_output(output, [config.mode_path], overwrite=config.overwrite)
    opened = open_checkpoint(config.mode_path, config.split, config)
    if number >= len(opened.matchers):
        raise InputError(f"--network {config.network}: {config.mode_path} holds one network only, A")
    split, truth = opened.split, None
    if config.split == "train":
        noise = give_noise(opened.stored, opened.checkpoint, config.mode_path)
        truth = split.is_matched if noise.is_known else None
    gallery = encode_split(opened.matchers[number], split, opened.device)
    captions = np.empty((len(split), gallery.images.pooled.shape[1]), dtype=np.float32)
    for block, columns in zip(gallery.blocks, gallery.columns, strict=True):
        captions[columns.numpy()] = block.pooled.cpu().numpy()
    with folder_at_once(output, (IMAGES, CAPTIONS, TRUTH)) as folder:
        np.save(folder / IMAGES, gallery.images.pooled.cpu().numpy()[split.image_of_pair])
        np.save(folder / CAPTIONS, captions)
        if truth is not None:
            np.save(folder / TRUTH, truth.astype(np.uint8))
    size = f"{len(split)} pairs x {captions.shape[1]} dimensions"
    return f"{output}: {size} of the {config.split} split, network {config.network}"


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and write the embeddings."""
    (config,) = parsed(
        "tools.filter.pooled", "Write a checkpoint's pooled embeddings.", argv, {"embeddings": PooledConfig}
    )
    print(export(config))


if __name__ == "__main__":
    main()
