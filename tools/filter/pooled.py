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

from data_utils.stored import give_noise, open_for_all
from models.encoded_split import encode_split
from models.matcher import Matcher
from models.restored import restore
from runtime.checkpoint import load_checkpoint
from runtime.device import choose_device
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_choices, flag, from_namespace, require
from tools.filter.files import check_output, folder_at_once

IMAGES, CAPTIONS, TRUTH = "images.npy", "captions.npy", "truth.npy"


@dataclass(frozen=True)
class PooledConfig:
    """Flags of what is read and written."""

    mode_path: str | None = flag(None, "checkpoint (required)", metavar="FILE")
    network: str = flag("A", "which of its networks", choices=("A", "B"))
    split: str = flag("train", "split whose pairs are encoded", choices=("train", "dev", "test", "testall"))
    data_name: str | None = flag(None, "data set (default: the checkpoint's)")
    data_path: str | None = flag(
        None, "folder that holds the data set's folder (default: the checkpoint's)", metavar="DIR"
    )
    vocab_path: str | None = flag(None, "folder of the vocabulary (default: the checkpoint's)", metavar="DIR")
    output: str | None = flag(None, "folder for the files (required)", metavar="DIR")
    overwrite: bool = flag(False, "replace what an earlier run left in --output")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")

    def __post_init__(self) -> None:
        check_choices(self)
        require(self, "mode_path", "name a checkpoint that run.py wrote")
        require(self, "output", "name a folder for the files")


def chosen_network(config: PooledConfig, matchers: list[Matcher]) -> Matcher:
    """Return the network that `--network` names.

    Raises:
        InputError: the checkpoint holds one network only.
    """
    number = "AB".index(config.network)
    if number >= len(matchers):
        raise InputError(f"--network {config.network}: {config.mode_path} holds one network only, A")
    return matchers[number]


def export(config: PooledConfig) -> str:
    """Encode the pairs and write the files; return a line that says what was written."""
    assert config.mode_path is not None and config.output is not None
    output = Path(config.output)
    check_output(output, [config.mode_path], overwrite=config.overwrite)
    checkpoint = load_checkpoint(config.mode_path)
    matcher = chosen_network(config, restore(checkpoint, config.mode_path))
    places = {"data_name": config.data_name, "data_path": config.data_path, "vocab_path": config.vocab_path}
    stored = open_for_all([checkpoint], [config.mode_path], config.split, **places)
    split, truth = stored.split, None
    if config.split == "train":
        noise = give_noise(stored, checkpoint, config.mode_path)
        truth = split.is_matched if noise.is_known else None
    device = choose_device(config.gpu)
    matcher.to(device)
    gallery = encode_split(matcher, split, device)
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
    parser = OneLineParser(prog="python -m tools.filter.pooled", description="Write a checkpoint's pooled embeddings.")
    add_flags(parser, "embeddings", PooledConfig)
    print(export(from_namespace(PooledConfig, parser.parse_args(argv))))


if __name__ == "__main__":
    main()
