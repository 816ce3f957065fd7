"""Captions and pictures as CLIP wants them: transformers' tokeniser and image processor.

The one place that imports transformers, an optional extra. Its image processor is the one that works with Pillow alone,
without torchvision. Legend: C captions, W tokens of the longest of them, B pictures, S side of a prepared picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.errors import InputError
from runtime.packages import CLIP, require

try:
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
    from transformers import logging as library_logging
except ImportError:  # an optional extra: the rest of the suite works without it
    ByteLevel = BpeTrainer = library_logging = None  # type: ignore[assignment,misc]
    AutoTokenizer = CLIPConfig = CLIPImageProcessorPil = CLIPModel = CLIPTokenizer = None  # type: ignore[assignment,misc]

__all__ = ["CLIPConfig", "CLIPModel"]

Tokenizer = Any
"""A tokeniser of transformers; the library's own type is missing where the library is."""

END = "</w>"
"""Marks a word's last symbol."""
LEGACY_END = 2
"""CLIP configurations that name this end token pool at the highest token id instead (early published ones)."""
MIN_TOKENS = 2 + 2 * 256
"""Start and end token, and every byte within a word and as its last."""
SETTINGS = ("preprocessor_config.json", "processor_config.json")
"""Where a folder says how pictures are prepared; newer versions of transformers write the second."""
LARGEST_SIDE = 4096
"""Pixels of a prepared picture's side."""


def require_transformers() -> None:
    """Make sure that transformers is there, and keep its remarks and progress bars from the terminal.

    Raises:
        InputError: it is not installed; says how to install it.
    """
    require(CLIPModel, "transformers", "CLIP needs", CLIP)
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()


def reason(error: Exception) -> str:
    """Return what the library says of a fault, as one short line."""
    return " ".join(str(error).split())[:200]


# -- captions -------------------------------------------------------------------------------------------------------


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
    token, as in CLIP. The library numbers symbols in the order of a hash table, and by these numbers it decides between
    pairs that are equally frequent; told as special tokens, they have the same numbers in every run.

    Args:
        captions: the training captions.
        vocab_size: most tokens, at least `MIN_TOKENS`.
    """
    require_transformers()
    assert vocab_size >= MIN_TOKENS
    empty = CLIPTokenizer()
    letters = sorted(ByteLevel.alphabet())
    symbols = [empty.bos_token, empty.eos_token, *letters, *(letter + END for letter in letters)]
    trainer = BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=symbols, end_of_word_suffix=END, show_progress=False
    )
    empty.backend_tokenizer.train_from_iterator(captions, trainer)
    learnt = json.loads(empty.backend_tokenizer.to_str())["model"]
    return CLIPTokenizer(vocab=learnt["vocab"], merges=[tuple(pair) for pair in learnt["merges"]])


def load_tokenizer(folder: Path, *, vocab_size: int, end: int) -> Tokenizer:
    """Load a model folder's tokeniser from disk.

    CLIP pools a caption at its first end token, so the tokeniser must end captions where the model pools.

    Args:
        folder: the model's.
        vocab_size: rows of the model's token embedding.
        end: the model configuration's end token.

    Raises:
        InputError: there is none, it cannot be read, it has ids beyond the embedding, or another end token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises anything from OSError to a plain Exception of its parser
        raise InputError(f"{folder} has no tokeniser that can be loaded (tokenizer.json): {reason(error)}") from None
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
    return tokenizer


def tokenize(tokenizer: Tokenizer, captions: Sequence[str], max_tokens: int) -> Tokens:
    """Return the captions' token ids; what goes beyond `max_tokens` is cut before the end token."""
    rows = tokenizer(list(captions), truncation=True, max_length=max_tokens)["input_ids"]
    lengths = torch.tensor([len(row) for row in rows])
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
    ends = ids.gather(1, lengths[:, None] - 1)
    assert bool((ends == tokenizer.eos_token_id).all()), "every caption ends with the end token"
    return Tokens(ids, lengths)


# -- pictures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a model's input.

    A picture is resized and cropped in 8 bits, so that prepared pictures are small enough to be kept, and normalised by
    the batch.

    Attributes:
        processor: transformers' CLIPImageProcessorPil.
        side: S.
    """

    processor: Any
    side: int

    @classmethod
    def square(cls, side: int) -> Preprocessing:
        """Return CLIP's own: the shorter side resized (bicubic), the middle cut out, CLIP's mean and deviation."""
        require_transformers()
        return cls(CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}), side)

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """Resize and crop (H, W, 3) uint8 to (3, S, S) uint8."""
        prepared = self.processor(pixels, do_rescale=False, do_normalize=False, input_data_format="channels_last")
        return torch.from_numpy(np.ascontiguousarray(prepared["pixel_values"][0]))

    def normalise(self, pictures: Tensor) -> Tensor:
        """Turn (B, 3, S, S) uint8 into float32."""
        values = pictures.float() * (self.processor.rescale_factor if self.processor.do_rescale else 1.0)
        if not self.processor.do_normalize:
            return values
        moments = (self.processor.image_mean, self.processor.image_std)
        mean, std = (torch.tensor(moment, device=values.device)[:, None, None] for moment in moments)
        return (values - mean) / std

    @classmethod
    def load(cls, folder: Path, side: int) -> Preprocessing:
        """Read a model folder's settings and try them out on a white picture.

        Raises:
            InputError: there are none, they cannot be followed, or what they prepare is not S x S pixels of a picture.
        """
        require_transformers()
        if not any((folder / name).is_file() for name in SETTINGS):
            raise InputError(f"{folder} has no {SETTINGS[0]}, which says how pictures are prepared; copy it there")
        try:
            found = cls(CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True), side)
            sizes = (getattr(found.processor, name, None) for name in ("size", "crop_size", "pad_size"))
            sides = [length for size in sizes if size for length in vars(size).values() if length is not None]
            if not all(1 <= length <= LARGEST_SIDE for length in sides):
                raise ValueError(f"sides of {sides} pixels are not all of 1 .. {LARGEST_SIDE}")
            white = found.prepare(np.full((1, 2, 3), 255, dtype=np.uint8))
            is_number = bool(torch.isfinite(found.normalise(white)).all())
        except Exception as error:  # whatever a wrong value leads the library into
            raise InputError(f"{folder}: {SETTINGS[0]} cannot be followed ({reason(error)})") from None
        if white.shape != (3, side, side):
            made = tuple(white.shape[1:])
            raise InputError(f"{folder}: the model takes pictures of {side} x {side}, {SETTINGS[0]} makes them {made}")
        if not is_number or not (white == 255).all():
            raise InputError(
                f"{folder}: {SETTINGS[0]} leaves pictures with a border, or with no finite numbers; resize to at least "
                "crop_size (do_resize), and give three numbers above 0 as image_std"
            )
        return found
