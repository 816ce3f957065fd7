"""Packages that only some commands need: a missing one is an error for people, when it is needed."""

from __future__ import annotations

import sys
from importlib.util import LazyLoader, find_spec, module_from_spec
from typing import Any

from runtime.errors import InputError

REPORT = "requirements-report.txt"
"""What tools.report, tools.audit and tools.search need beside requirements.txt."""
CLIP = "requirements-clip.txt"
"""What tools/clip_tuning and pictures need."""


def optional(name: str) -> Any:
    """Return an optional package, which is loaded when it is first asked for something; None: it is not installed."""
    if name in sys.modules:
        return sys.modules[name]
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        return None
    spec.loader = LazyLoader(spec.loader)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def require(module: Any, name: str, purpose: str, requirements: str = REPORT) -> None:
    """Check that an optional package was found.

    Args:
        module: the package, None where its import failed.
        name: what it is called.
        purpose: what needs it, with the verb: `charts need`.
        requirements: the file that names it.

    Raises:
        InputError: it was not; says how to install it.
    """
    if module is None:
        raise InputError(f"{purpose} {name}, which is not installed; run: python -m pip install -r {requirements}")
