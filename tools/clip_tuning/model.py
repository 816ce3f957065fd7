"""The CLIP model: a folder on disk (transformers' CLIPModel, safetensors) or a small one from random initialisation.

A folder holds config.json, model.safetensors, preprocessor_config.json and tokeniser files; nothing is downloaded. This
is the one place that imports transformers, an optional extra. Its image processor is the one that works with Pillow
alone, without torchvision. Legend: B pictures or captions, C captions, D embed size, W tokens, S side of a picture.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.flags import check_choices, check_range, flag
from runtime.packages import CLIP, require
from runtime.seed import seed_everything

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


TINY = "tiny"
MAX_SCALE = 100.0
"""Largest logit scale of the contrastive loss (Radford et al., ICML 2021)."""
SHOWN_KEYS = 3
"""So many weights that do not fit are named."""


@dataclass(frozen=True)
class ModelConfig:
    """Flags of the model. Sizes are those of `--clip tiny`; a folder brings its own."""

    clip: str = flag(
        TINY, "CLIP folder (config.json, model.safetensors, ...), or tiny: a small random one", metavar="DIR"
    )
    picture_size: int = flag(48, "tiny: side of the pictures, in pixels")
    patch_size: int = flag(12, "tiny: side of a patch, in pixels")
    vision_width: int = flag(128, "tiny: width of the picture tower")
    vision_layers: int = flag(3, "tiny: layers of the picture tower")
    text_width: int = flag(128, "tiny: width of the text tower")
    text_layers: int = flag(2, "tiny: layers of the text tower")
    heads: int = flag(4, "tiny: attention heads of both towers")
    embed_size: int = flag(128, "tiny: dimensions of the embeddings")
    vocab_size: int = flag(3000, "tiny: most tokens of the tokeniser that is trained on the training captions")
    max_tokens: int = flag(24, "tiny: longest caption in tokens, start and end included")
    precision: str = flag("fp32", "bf16: the towers compute in bfloat16 (autocast)", choices=("fp32", "bf16"))

    def __post_init__(self) -> None:
        check_choices(self)
        at_least = {"max_tokens": 3, "vocab_size": MIN_TOKENS}
        for field in dataclasses.fields(self):
            if isinstance(field.default, int):
                check_range(self, field.name, low=at_least.get(field.name, 1))
        for name, part in (("vision_width", "heads"), ("text_width", "heads"), ("picture_size", "patch_size")):
            whole, step = getattr(self, name), getattr(self, part)
            if whole % step:
                raise InputError(f"--{name} {whole} is no multiple of --{part} {step}")


class Clip(nn.Module):
    """Both towers with their tokeniser and preprocessing.

    Args:
        network: transformers' CLIPModel.
        tokenizer: of transformers.
        preprocessing: how pictures are prepared.
        precision: fp32, or bf16 for autocast; embeddings leave in float32 either way.
    """

    def __init__(self, network: Any, tokenizer: Tokenizer, preprocessing: Preprocessing, precision: str) -> None:
        super().__init__()
        self.network, self.tokenizer, self.preprocessing = network, tokenizer, preprocessing
        self.is_bf16 = precision == "bf16"

    @property
    def device(self) -> torch.device:
        return self.network.logit_scale.device

    @property
    def scale(self) -> Tensor:
        """What the contrastive loss multiplies cosines by, a scalar with gradient, at most MAX_SCALE."""
        return self.network.logit_scale.exp().clamp(max=MAX_SCALE)

    def tokens(self, captions: Sequence[str]) -> Tokens:
        """Return the captions' token ids."""
        return tokenize(self.tokenizer, captions, self.network.config.text_config.max_position_embeddings)

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """Return unit embeddings (B, D) of normalised pictures (B, 3, H, W)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            features = self.network.get_image_features(pixel_values=pictures).pooler_output
        return F.normalize(features.float(), dim=1)

    def embed_captions(self, ids: Tensor) -> Tensor:
        """Return unit embeddings (B, D) of token ids (B, W), padded behind their end tokens."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            features = self.network.get_text_features(input_ids=ids).pooler_output
        return F.normalize(features.float(), dim=1)

    def save(self, folder: Path) -> None:
        """Write a folder that `load_clip` and transformers read; it gets its name when all is written.

        Raises:
            InputError: the place cannot be written.
        """
        part = folder.with_name(folder.name + ".part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            self.network.save_pretrained(part)
            self.tokenizer.save_pretrained(part)
            self.preprocessing.processor.save_pretrained(part)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error.strerror or error}") from None


def build_tiny(config: ModelConfig, captions: Sequence[str], seed: int) -> Clip:
    """Return a small CLIP with random weights and a tokeniser trained on `captions`."""
    require_transformers()
    tokenizer = train_tokenizer(captions, config.vocab_size)

    def tower(width: int, layers: int, **own: Any) -> dict[str, Any]:
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        return {**sizes, "num_attention_heads": config.heads, "hidden_act": "gelu", **own}

    text = tower(
        config.text_width,
        config.text_layers,
        vocab_size=len(tokenizer),
        max_position_embeddings=config.max_tokens,
        **{name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    vision = tower(
        config.vision_width, config.vision_layers, image_size=config.picture_size, patch_size=config.patch_size
    )
    seed_everything(seed)
    network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.embed_size))
    return Clip(network, tokenizer, Preprocessing.square(config.picture_size), config.precision)


def _check_weights(info: dict[str, Any], folder: Path) -> None:
    """Raise `InputError` unless every weight was in the file, fitted, and had a place."""
    wrong = [f"{key} is missing" for key in sorted(info["missing_keys"])]
    wrong += [f"{k} is {tuple(a)} instead of {tuple(b)}" for k, a, b in sorted(info["mismatched_keys"])]
    wrong += [f"{key} is unknown" for key in sorted(info["unexpected_keys"])]
    wrong += info.get("error_msgs") or []
    if wrong:
        more = f" (and {len(wrong) - SHOWN_KEYS} more)" if len(wrong) > SHOWN_KEYS else ""
        raise InputError(
            f"the weights in {folder} do not fit its config.json: {'; '.join(wrong[:SHOWN_KEYS])}{more}; "
            "take both from one model"
        )


def load_clip(folder: Path, precision: str) -> Clip:
    """Load a CLIP folder from disk, weights in float32.

    Raises:
        InputError: no such folder, files missing or broken, no CLIP, weights that do not fit (names the first), a
            tokeniser or preprocessing of another model.
    """
    require_transformers()
    if not folder.is_dir():
        raise InputError(f"--clip {folder} is no folder; give one with config.json and model.safetensors, or {TINY}")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        raise InputError(f"--clip {folder} has no config.json that can be read; give a CLIP model") from None
    if kind != "clip":
        raise InputError(f"--clip {folder} holds a model of type {kind!r}; it must be 'clip'")
    if not list(folder.glob("*.safetensors")):
        raise InputError(f"--clip {folder} holds no safetensors; save the model with its save_pretrained")
    try:
        loaded: Any = CLIPModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported below, by name
            output_loading_info=True,
        )
    except Exception as error:  # a damaged file leads the library into any exception
        raise InputError(f"--clip {folder} cannot be loaded ({type(error).__name__}: {reason(error)})") from None
    network, info = loaded
    _check_weights(info, folder)
    text = network.config.text_config
    tokenizer = load_tokenizer(folder, vocab_size=text.vocab_size, end=text.eos_token_id)
    preprocessing = Preprocessing.load(folder, network.config.vision_config.image_size)
    return Clip(network, tokenizer, preprocessing, precision)


def placed(model: Clip, device: torch.device) -> Clip:
    """Return the model on `device`, with the attention that suits it."""
    if device.type == "cpu" and model.is_bf16:
        model.network.set_attn_implementation("eager")  # torch's fused attention has a slow bfloat16 gradient there
    return model.to(device)


def open_clip(config: ModelConfig, captions: Sequence[str], seed: int, device: torch.device) -> Clip:
    """Return the model that `--clip` names, on `device`.

    Args:
        config: flags.
        captions: the training captions, for `--clip tiny`.
        seed: of random weights.
        device: where it computes.
    """
    is_tiny = config.clip == TINY
    model = build_tiny(config, captions, seed) if is_tiny else load_clip(Path(config.clip), config.precision)
    return placed(model, device)
