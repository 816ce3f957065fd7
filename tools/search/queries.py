"""What is asked: words that the vocabulary knows, or the region features of one picture file.

Features of a picture are computed as the suite's own extraction does. Legend: Q queries, W words of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runtime.device import choose_device
from runtime.errors import InputError
from tools.extract.backbones import BackboneOptions, open_backbone
from tools.extract.listing import read_text
from tools.extract.regions import Regions
from tools.picture_files import picture_files
from vocab.vocabulary import Vocabulary, tokenize


@dataclass(frozen=True)
class TextQueries:
    """Queries as captions are: by number.

    Attributes:
        texts: Q of them, as they were given.
        ids: of each its token ids.
        unknown: of each the words that the vocabulary does not have, which the networks read as one unknown word.
    """

    texts: list[str]
    ids: list[list[int]]
    unknown: list[list[str]]

    @property
    def lengths(self) -> np.ndarray:
        """(Q,) int64."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.texts)

    def tokens(self, captions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return token ids (n, W), zero-padded, and lengths (n,) of query numbers (n,)."""
        chosen = [self.ids[k] for k in captions.tolist()]
        lengths = torch.tensor([len(ids) for ids in chosen])
        padded = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.long)
        for row, ids in enumerate(chosen):
            padded[row, : len(ids)] = torch.tensor(ids)
        return padded, lengths


def read_queries(texts: Sequence[str], vocabulary: Vocabulary) -> TextQueries:
    """Look up the words of queries.

    Raises:
        InputError: a query is empty, or none of its words is known; says which words.
    """
    known = set(vocabulary.words)
    unknown = []
    for number, text in enumerate(texts, start=1):
        which = "the query" if len(texts) == 1 else f"query {number}"
        words = tokenize(text)
        if not words:
            raise InputError(f"{which} is empty; say in a few words what the picture shows")
        strange = [word for word in words if word not in known]
        if len(strange) == len(words):
            raise InputError(
                f"{which} ({text!r}) holds no word that the networks have learnt: {', '.join(strange)}; use other words"
            )
        unknown.append(list(dict.fromkeys(strange)))
    return TextQueries(list(texts), [vocabulary.encode(text) for text in texts], unknown)


def read_query_file(path: Path) -> list[str]:
    """Return the lines of a file, one query each.

    Raises:
        InputError: no such file, not UTF-8, or empty.
    """
    if not path.is_file():
        raise InputError(f"--queries {path} is no file; give one with a query a line")
    lines = read_text(path).splitlines()
    if not lines:
        raise InputError(f"--queries {path} is empty; it must hold a query a line")
    return lines


class OnePicture:
    """A picture in the shape of a split without captions.

    Args:
        path: its file.
        shape: (R, D) that the networks were trained on.
        backbone: as tools.extract takes it: `lite0`, a folder or an .onnx file.
        grid: cells a side.
        gpu: where the backbone runs.

    Raises:
        InputError: no such picture, no such backbone, or features of another shape than the networks know.
    """

    num_images = 1
    lengths = np.zeros(0, dtype=np.int64)

    def __init__(self, path: Path, shape: tuple[int, int], *, backbone: str, grid: int, gpu: str) -> None:
        if not path.is_file():
            raise InputError(f"--image {path} is neither a number of the gallery nor a picture file")
        pixels = picture_files([path]).pixels(0)
        opened = open_backbone(backbone, BackboneOptions(), choose_device(gpu))
        regions = Regions(opened, backbone, grid=grid, batch_size=1)
        if tuple(regions.shape) != shape:
            raise InputError(
                f"--backbone {backbone} with --grid {grid} gives {regions.shape[0]} regions x {regions.shape[1]} "
                f"dimensions, the networks were trained on {shape[0]} x {shape[1]}: features of another origin cannot "
                "be searched with; name the backbone that the data set was extracted with, or give --image a number"
            )
        self._features = torch.from_numpy(regions.compute(regions.inputs_of(pixels, None), 1))

    def read_images(self, images: np.ndarray) -> torch.Tensor:
        """Return the features (n, R, D)."""
        return self._features[torch.from_numpy(images)]

    def tokens(self, captions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """There are none."""
        raise AssertionError("a picture has no captions")
