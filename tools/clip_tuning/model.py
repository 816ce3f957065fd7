"""The CLIP model: a folder on disk (transformers' CLIPModel, safetensors) or a small one from random initialisation.

A folder holds config.json, model.safetensors, preprocessor_config.json and tokeniser files. Nothing is downloaded.
Legend: B pictures or captions, D embed size, W tokens.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.flags import check_choices, check_range, flag
from runtime.seed import seed_everything
from tools.clip_tuning.processing import (
    MIN_TOKENS,
    CLIPConfig,
    CLIPModel,
    Preprocessing,
    Tokenizer,
    Tokens,
    load_tokenizer,
    reason,
    require_transformers,
    tokenize,
    train_tokenizer,
)

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
