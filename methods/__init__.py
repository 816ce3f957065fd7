"""One selectable method a file: its frozen `Config`, its `Method`, and `METHOD` that names it.

A new file `methods/foo.py` is all it takes: `--method foo`, its flags, its help and its contract test then exist.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from methods.blocks.method import Method, MethodConfig


def known_methods() -> dict[str, type[Method]]:
    """Return every method by its name, in alphabetical order."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.ispkg)
    modules = {name: importlib.import_module(f"methods.{name}") for name in names}
    return {name: module.METHOD for name, module in modules.items()}


GONE = {"mask_matches", "drift_warmup", "drift_negatives", "margin_lambda", "filter_pool"}
"""Flags that older checkpoints store."""


def stored_config(kind: type[Method], settings: Mapping[str, Any]) -> MethodConfig:
    """Return a method's config from the settings that a checkpoint stores.

    Flags that are gone are left out; `method`, which older ones have, stands for the method's own default.

    Raises:
        TypeError: a setting that no suite had.
    """
    own = {"loss", "signal", "refine"}
    kept = {name: v for name, v in settings.items() if name not in GONE and not (name in own and v == "method")}
    return kind.Config(**{**{name: kind.defaults[name] for name in own & kind.defaults.keys()}, **kept})


__all__ = ["Method", "MethodConfig", "known_methods", "stored_config"]
