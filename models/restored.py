"""Networks from a checkpoint, with the architecture that the checkpoint itself states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.matcher import Matcher, MatcherConfig, MatcherShape, build_matcher
from runtime.errors import InputError
from runtime.flags import from_stored


def restore(checkpoint: dict[str, Any], path: str) -> list[Matcher]:
    """Build a checkpoint's networks with their weights.

    Raises:
        InputError: the weights do not fit the dimensions that the checkpoint itself states.
    """
    config = from_stored(
        MatcherConfig, checkpoint["config"]["matcher"], f"{path} holds a network that this suite does not have"
    )
    shape = from_stored(MatcherShape, checkpoint["config"]["shape"], f"{path} is damaged: its dimensions")
    for weights in checkpoint["networks"]:
        _check_sizes(config, shape, weights, path)
    matchers = [build_matcher(config, shape) for _ in checkpoint["networks"]]
    for matcher, weights in zip(matchers, checkpoint["networks"], strict=True):
        matcher.load_state_dict(weights)
    return matchers


def _check_sizes(config: MatcherConfig, shape: MatcherShape, weights: Mapping[str, Tensor], path: str) -> None:
    """Compare weights with the network that they are for, before it takes memory.

    Raises:
        InputError: they are not its weights.
    """
    damaged = f"{path} is damaged: its weights do not fit its own dimensions"
    if max(config.num_layers, config.sgr_step) > len(weights):  # each layer and step has weights of its own
        if config.num_layers > len(weights) or config.module_name == "SGR":
            raise InputError(f"{damaged}: {config.num_layers} layers and {config.sgr_step} steps")
    if min(shape.vocabulary_size, shape.num_regions, shape.region_dim) < 1:
        raise InputError(f"{damaged}: {shape}")
    try:
        with torch.device("meta"):
            expected = build_matcher(config, shape).state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{damaged} ({error})") from None
    for name in dict.fromkeys((*expected, *weights)):
        own, given = (tensors.get(name) for tensors in (expected, weights))
        if (
            own is None
            or given is None
            or own.shape != given.shape
            or own.is_floating_point() != given.is_floating_point()
        ):
            said = " and ".join("absent" if t is None else f"{t.dtype} {tuple(t.shape)}" for t in (given, own))
            raise InputError(f"{damaged}: {name} is {said}")
