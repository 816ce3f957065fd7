"""The split that checkpoints are evaluated on, with the vocabulary and the features that they were trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_utils.catalog import DataConfig, locate, protocol, split_name, vocabulary_file
from data_utils.precomputed import PrecomputedSplit
from runtime.errors import InputError
from vocab.vocabulary import Vocabulary


def stored_data(
    checkpoint: Mapping[str, Any],
    path: str,
    *,
    data_name: str | None = None,
    data_path: str | None = None,
    vocab_path: str | None = None,
) -> DataConfig:
    """Return where a checkpoint's data are: as told, else as it was trained.

    Raises:
        InputError: neither the flags nor the checkpoint name the data set.
    """
    stored = checkpoint["config"]["data"]
    name = data_name or stored.get("data_name")
    if not name:
        raise InputError(f"{path} does not record its data set; give --data_name")
    return DataConfig(
        data_name=name,
        data_path=data_path or stored.get("data_path"),
        vocab_path=vocab_path or stored.get("vocab_path"),
    )


def open_split(data: DataConfig, split: str, checkpoint: Mapping[str, Any], path: str) -> PrecomputedSplit:
    """Open a split for a checkpoint.

    A checkpoint of another program does not say which words its vocabulary has, only how many.

    Raises:
        InputError: another vocabulary, or features of other dimensions.
    """
    vocabulary, shape = Vocabulary.load(vocabulary_file(data)), checkpoint["config"]["shape"]
    digest = checkpoint["vocabulary_digest"]
    if digest is not None and vocabulary.digest() != digest:
        raise InputError(
            f"{vocabulary_file(data)} is not the vocabulary that {path} was trained with; set --vocab_path to that one"
        )
    if len(vocabulary) != shape["vocabulary_size"]:
        raise InputError(
            f"{vocabulary_file(data)} holds {len(vocabulary)} words, {path} was trained with "
            f"{shape['vocabulary_size']}; set --vocab_path to that vocabulary"
        )
    folder = locate(data)
    split = split_name(folder, split)
    opened = PrecomputedSplit(
        folder, split, vocabulary, protocol(data.data_name).dev_images if split == "dev" else None
    )
    expected = (shape["num_regions"], shape["region_dim"])
    if opened.region_shape != expected:
        raise InputError(
            f"{path} was trained on {expected[0]} regions x {expected[1]} dimensions; {opened.regions.path} has "
            f"{opened.region_shape[0]} x {opened.region_shape[1]}"
        )
    return opened


@dataclass(frozen=True)
class StoredData:
    """A split and the name of its data set."""

    split: PrecomputedSplit
    data_name: str


def open_for_all(
    checkpoints: Sequence[Mapping[str, Any]], paths: Sequence[str], split: str, **places: str | None
) -> StoredData:
    """Open the one split that several checkpoints are evaluated on.

    Args:
        checkpoints: at least one.
        paths: where they are.
        split: its name.
        places: flags of `stored_data`.

    Raises:
        InputError: they read other pairs, or the same captions with other vocabularies.
    """
    found: StoredData | None = None
    digest = ""
    for checkpoint, path in zip(checkpoints, paths, strict=True):
        data = stored_data(checkpoint, path, **places)
        opened, own_digest = open_split(data, split, checkpoint, path), Vocabulary.load(vocabulary_file(data)).digest()
        if found is None:
            found, digest = StoredData(opened, data.data_name), own_digest
        if not np.array_equal(opened.image_of_caption, found.split.image_of_caption):
            raise InputError(f"{path} evaluates on other pairs than {paths[0]}; name one --data_name for both")
        if own_digest != digest:
            raise InputError(
                f"{path} goes with another vocabulary than {paths[0]}, so that they read the same captions "
                "differently; only networks of one vocabulary can be averaged"
            )
    assert found is not None
    return found
