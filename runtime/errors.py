"""Errors meant for people: one clear line, exit code 2, no traceback.

A fault in what the user gave (a flag, a file, a value) raises `InputError`. A fault of ours keeps its traceback.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class InputError(ValueError):
    """What the user gave cannot be used: says what, where, what is allowed and what to do."""


def exit_on_input_error(main: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap an entry point so that an `InputError` prints as one line and exits with code 2."""

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> Result:
        try:
            return main(*args, **kwargs)
        except InputError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapped
