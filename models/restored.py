"""Networks from a checkpoint, with the architecture that the checkpoint itself states."""

from __future__ import annotations

from typing import Any

from models.matcher import Matcher, MatcherConfig, MatcherShape, build_matcher
from runtime.errors import InputError


def restore(checkpoint: dict[str, Any], path: str) -> list[Matcher]:
    """Build a checkpoint's networks with their weights.

    Raises:
        InputError: the weights do not fit the dimensions that the checkpoint itself states.
    """
    try:
        config = MatcherConfig(**checkpoint["config"]["matcher"])
        shape = MatcherShape(**checkpoint["config"]["shape"])
        matchers = [build_matcher(config, shape) for _ in checkpoint["networks"]]
        for matcher, weights in zip(matchers, checkpoint["networks"], strict=True):
            matcher.load_state_dict(weights)
    except InputError as error:
        raise InputError(f"{path} holds a network that this suite does not have: {error}") from None
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: its weights do not fit its own dimensions ({str(error)[:160]})") from None
    return matchers
