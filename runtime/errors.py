"""How a program ends: by an error meant for people, or because somebody asked it to.

A fault in what the user gave (a flag, a file, a value) raises `InputError`: one clear line, exit code 2, no traceback.
A fault of ours keeps its traceback. SIGINT and SIGTERM are requests: the first signal is remembered
(`Interruption.requested`); the work in hand is finished and saved, then the program ends. A second one ends it at once.
No file suffers: files get their names only when they are whole.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
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


ASKED = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """The program was asked to end by a signal, and did not end before everything was saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + the signal's number: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class Interruption:
    """Whether somebody has asked this process to end."""

    def __init__(self) -> None:
        self.requested: int | None = None
        """Number of the signal, None as long as there was none."""

    def ask(self) -> None:
        """Ask for the end on behalf of another process, if nobody has yet."""
        self.requested = self.requested or signal.SIGTERM

    def check(self) -> None:
        """Raise `Stopped` if the end was asked for."""
        if self.requested is not None:
            raise Stopped(self.requested)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals inside the block; after it they do what they did before."""
        before = {number: signal.signal(number, self._asked) for number in ASKED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            os._exit(128 + number)
        self.requested = number
