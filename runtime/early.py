"""What a command does before torch is loaded, which takes seconds: it says a word; for its help it does without.

Flags stand beside what uses them, and that uses torch: to list them, classes are read and nothing is computed. Where
help is all that is asked for, empty classes therefore stand in for torch's. The process ends with its help.
"""

from __future__ import annotations

import os
import sys
from abc import ABCMeta
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

HELP = ("-h", "--help", "--help_all")


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


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn


class _Finder:
    """Finds torch and all its modules, empty."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        is_torch = name.partition(".")[0] == "torch"
        return ModuleSpec(name, cast(Any, self), is_package=True) if is_torch else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


def begin(arguments: Sequence[str]) -> None:
    """Say that the program has started, or make its help quick; call it before torch is imported.

    Args:
        arguments: of the command line.
    """
    if any(argument in HELP for argument in arguments):
        sys.meta_path.insert(0, _Finder())
    elif os.environ.get("RANK", "0") == "0":
        print("starting ...", flush=True)
