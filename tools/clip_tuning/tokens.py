"""Captions as token ids: a model folder's own tokeniser, or one of CLIP's kind trained on the captions.

CLIP pools a caption at its first end token, so every row needs one, also a caption that is cut. Legend: C captions,
W tokens of the longest of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runtime.errors import InputError
from tools.clip_tuning.library import AutoTokenizer, ByteLevel, CLIPTokenizer, Tokenizer, require_transformers
from tools.clip_tuning.merges import END, learn_merges

LEGACY_END = 2
"""CLIP configurations that name this end token pool at the highest token id instead (early published ones)."""

MIN_TOKENS = 2 + 2 * 256
"""Start and end token, and every byte within a word and as its last."""


@dataclass(frozen=True)
class Tokens:
    """Token ids (C, W) int64, padded, and the lengths (C,) of the captions with their start and end token.

    No mask is needed: attention is causal, so that an end token sees nothing that comes after it.
    """

    ids: Tensor
    lengths: Tensor

    def rows(self, numbers: np.ndarray) -> Tokens:
        """Return the captions of these numbers (B,), no wider than their longest."""
        index = torch.from_numpy(numbers)
        lengths = self.lengths[index]
        return Tokens(self.ids[index, : int(lengths.max())], lengths)

    def __len__(self) -> int:
        return len(self.ids)


def train_tokenizer(captions: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train CLIP's tokeniser (lower-cased, byte-level pair encoding, end-of-word marks) on captions.

    The 256 bytes, each also as a word's last, are always there, so that no caption is unknown; padding is the end
    token, as in CLIP.

    Args:
        captions: the training captions.
        vocab_size: most tokens, at least `MIN_TOKENS`.
    """
    require_transformers()
    assert vocab_size >= MIN_TOKENS
    empty = CLIPTokenizer()
    split = empty.backend_tokenizer
    words: Counter[str] = Counter()
    for caption in captions:
        lowered = split.normalizer.normalize_str(caption)
        words.update(word for word, _ in split.pre_tokenizer.pre_tokenize_str(lowered))
    letters = sorted(ByteLevel.alphabet())
    merges = learn_merges(words, vocab_size - MIN_TOKENS)
    tokens = [empty.bos_token, empty.eos_token, *letters, *(letter + END for letter in letters), *map("".join, merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges)  # type: ignore[arg-type]


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load a model folder's tokeniser from disk.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    require_transformers()
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises anything from OSError to a plain Exception of its parser
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder} has no tokeniser that can be loaded (tokenizer.json): {reason}") from None


def check_tokenizer(tokenizer: Tokenizer, folder: Path, *, vocab_size: int, end: int) -> None:
    """Make sure that a tokeniser fits a text model.

    Args:
        tokenizer: of `load_tokenizer`.
        folder: for the message.
        vocab_size: rows of the model's token embedding.
        end: the model configuration's end token.

    Raises:
        InputError: ids beyond the embedding, or an end token at which the model does not pool.
    """
    if len(tokenizer) > vocab_size:
        raise InputError(
            f"{folder}: the tokeniser has {len(tokenizer)} tokens, the model {vocab_size}; they are not of one model"
        )
    pooled = len(tokenizer) - 1 if end == LEGACY_END else end
    if tokenizer.eos_token_id != pooled:
        raise InputError(
            f"{folder}: the model pools captions at token {pooled}, but the tokeniser ends them with "
            f"{tokenizer.eos_token_id}; correct eos_token_id in config.json, or take the model's own tokeniser"
        )


def tokenize(tokenizer: Tokenizer, captions: Sequence[str], max_tokens: int) -> Tokens:
    """Return the captions' token ids; what goes beyond `max_tokens` is cut before the end token."""
    rows = tokenizer(list(captions), truncation=True, max_length=max_tokens)["input_ids"]
    lengths = torch.tensor([len(row) for row in rows])
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = torch.full((len(rows), int(lengths.max())), pad, dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    ends = ids.gather(1, lengths[:, None] - 1)
    assert bool((ends == tokenizer.eos_token_id).all()), "every caption ends with the end token"
    return Tokens(ids, lengths)
