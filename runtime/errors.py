"""Errors meant for people: one clear line, exit code 2, no traceback.

A fault in what the user gave (a flag, a file, a value) raises `InputError`. A fault of ours keeps its traceback.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

LONGEST = 800
"""Characters of a message; of a longer one the middle is left out."""
KEPT_END = 200


def one_line(text: str) -> str:
    """Return text as one line of bounded length that steers no terminal: messages quote what files hold."""
    line = " ".join(text.split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - KEPT_END]} ... {line[-KEPT_END:]}"


class InputError(ValueError):
    """What the user gave cannot be used: says what, where, what is allowed and what to do, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ProcessError(InputError):
    """An error that one of several processes of a run has met; the others may not have."""


def say_aside(line: str) -> None:
    """Print one line for people on stderr; of several processes (torchrun) the first does."""
    if os.environ.get("RANK", "0") == "0":
        print(one_line(line), file=sys.stderr)


def exit_on_input_error(main: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap an entry point so that an `InputError` prints as one line and exits with code 2.

    Of several processes (torchrun) the first prints what all meet alike before they have joined.
    """

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> Result:
        try:
            return main(*args, **kwargs)
        except InputError as error:
            if isinstance(error, ProcessError) or os.environ.get("RANK", "0") == "0":
                print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            print(f"error: {one_line(str(error.filename))}: no file has so long a name", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapped
