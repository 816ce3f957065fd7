"""Packages that take long to load, or that only some commands need.

torch takes seconds: a command says a word before it, and for its help does without. Flags stand beside what uses them,
and that uses torch, but listing them computes nothing: where help is all that is asked for, empty classes stand in.
"""

from __future__ import annotations

import os
import sys
from abc import ABCMeta
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import LazyLoader, find_spec, module_from_spec
from types import ModuleType
from typing import Any, cast

from runtime.errors import InputError

REPORT = "requirements-report.txt"
"""What tools.report, tools.audit and tools.search need beside requirements.txt."""
CLIP = "requirements-clip.txt"
"""What tools/clip_tuning and pictures need."""


class _StandsFor(ABCMeta):
    """The type of a class that may be inherited from, asked for any name, called, and put before a function."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn

    def __call__(cls, *given: Any, **named: Any) -> Any:
        return given[0] if len(given) == 1 and callable(given[0]) else StandIn


class StandIn(metaclass=_StandsFor):
    """Any class, function or number of torch."""


class _Empty(ModuleType):
    """Any module of torch."""

    def __getattr__(self, name: str) -> Any:
        return _StandsFor.__getattr__(StandIn, name)


class _Finder:
    """Finds torch and all its modules, empty; they stay loaded, since the process ends with its help."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        is_torch = name.partition(".")[0] == "torch"
        return ModuleSpec(name, cast(Any, self), is_package=True) if is_torch else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


def begin(arguments: Sequence[str]) -> None:
    """Say that the program has started, or make its help quick; call it before torch is imported.

    Args:
        arguments: of the command line.
    """
    if {"-h", "--help", "--help_all"} & set(arguments):
        sys.meta_path.insert(0, _Finder())
    elif os.environ.get("RANK", "0") == "0":
        print("starting ...", flush=True)


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
