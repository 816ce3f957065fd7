"""What a checkpoint holds, field by field: types are checked where it is read, so that nothing else need ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from runtime.errors import InputError

NUMBER = (int, float)
NOTHING = type(None)

FIELDS: dict[str, tuple[type, ...]] = {
    "epoch": (int, NOTHING),
    "title": (str, NOTHING),
    "vocabulary_digest": (str, NOTHING),
    "chosen_on": (str, NOTHING),
    "best_rsum": (*NUMBER, NOTHING),
    "dev": (dict, NOTHING),
    "networks": (list,),
    "config": (dict,),
    "config/data": (dict,),
    "config/data/data_name": (str, NOTHING),
    "config/data/data_path": (str, NOTHING),
    "config/data/vocab_path": (str, NOTHING),
    "config/matcher": (dict,),
    "config/shape": (dict,),
    "config/shape/vocabulary_size": (int,),
    "config/shape/num_regions": (int,),
    "config/shape/region_dim": (int,),
    "config/training": (dict,),
    "config/training/seed": (int, NOTHING),
    "config/method": (dict, NOTHING),
    "config/noise": (dict, NOTHING),
    "config/options": (dict, NOTHING),
    "config/method_name": (str, NOTHING),
    "config/noise_report": (dict, NOTHING),
    "config/noise_report/protocol": (str, NOTHING),
    "config/noise_report/asked_ratio": (*NUMBER, NOTHING),
    "config/noise_report/measured_ratio": (*NUMBER, NOTHING),
}
"""Path -> types. A field that may be nothing may be missing."""


def _at(content: Any, path: str) -> Any:
    for name in path.split("/"):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def check_fields(content: Mapping[str, Any], path: str) -> None:
    """Check the fields of a checkpoint's content that anything reads.

    Raises:
        InputError: one is missing or of another type; names it.
    """
    for field, kinds in FIELDS.items():
        value = _at(content, field)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            told = "is missing" if value is None else f"is {value!r}"
            raise InputError(f"{path} is damaged: {field.replace('/', ', ')} {told}")
    networks = content["networks"]
    are_named = all(isinstance(weights, Mapping) for weights in networks) and all(
        isinstance(name, str) and isinstance(value, Tensor) for weights in networks for name, value in weights.items()
    )
    if not networks or not are_named:
        raise InputError(f"{path} is damaged: its networks are no tensors with names")
    for name, result in (content.get("dev") or {}).items():
        if not isinstance(_at(result, "rSum"), NUMBER):
            raise InputError(f"{path} is damaged: its results on dev have no rSum of {name}")
