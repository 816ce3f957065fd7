"""Tiny models for tests."""

from __future__ import annotations

from tests.tools.clip_tuning.made_up import PATCH, SIDE
from tools.clip_tuning.model import Clip, ModelConfig, build_tiny

CAPTIONS = ["red north", "blue south east", "a white picture", "green"]


def tiny_config(**changes: object) -> ModelConfig:
    """Return the settings of a model of two layers and width 32."""
    settings: dict[str, object] = {
        "picture_size": SIDE,
        "patch_size": PATCH,
        "vision_width": 32,
        "vision_layers": 2,
        "text_width": 32,
        "text_layers": 2,
        "heads": 2,
        "embed_size": 16,
        "vocab_size": 540,
        "max_tokens": 16,
    }
    return ModelConfig(**{**settings, **changes})  # type: ignore[arg-type]


def tiny_clip(seed: int = 0, **changes: object) -> Clip:
    """Return a random model."""
    return build_tiny(tiny_config(**changes), CAPTIONS, seed)
