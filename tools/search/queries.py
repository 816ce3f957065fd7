"""Queries in words: what the vocabulary knows of them, and the token ids of what it knows.

Legend: Q queries, W words of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runtime.errors import InputError
from tools.extract.text_files import read_text
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
