"""One selectable method a file: its frozen `Config`, its `Method`, and `METHOD` that names it.

A new file `methods/foo.py` is all it takes: `--method foo`, its flags, its help and its contract test then exist.
"""

from __future__ import annotations

import importlib
import pkgutil

from methods.blocks.method import Method, MethodConfig


def known_methods() -> dict[str, type[Method]]:
    """Return every method by its name, in alphabetical order."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.ispkg)
    modules = {name: importlib.import_module(f"methods.{name}") for name in names}
    return {name: module.METHOD for name, module in modules.items()}


__all__ = ["Method", "MethodConfig", "known_methods"]
