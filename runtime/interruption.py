"""SIGINT and SIGTERM as requests: the work in hand is finished and saved first, then the program ends.

The first signal is remembered (`Interruption.requested`) and passed on to processes that work for this one; a second
one ends the program at once. No file suffers from that: files get their names only when they are whole.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ASKED = (signal.SIGINT, signal.SIGTERM)
PASSED_ON: signal.Signals = getattr(signal, "SIGUSR1", signal.SIGINT)
"""Windows has no SIGUSR1, and no forks to pass it on to."""


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
        self._workers: set[int] = set()

    def ask(self) -> None:
        """Ask for the end on behalf of another process, if nobody has yet."""
        self.requested = self.requested or signal.SIGTERM

    def check(self) -> None:
        """Raise `Stopped` if the end was asked for."""
        if self.requested is not None:
            raise Stopped(self.requested)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals inside the block, and in processes forked there; after it they do what they did before."""
        handlers = {PASSED_ON: self._told} | dict.fromkeys(ASKED, self._asked)
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def passed_on(self, pid: int) -> Iterator[None]:
        """Pass the first signal on to the forked process `pid` while the block runs."""
        self._workers.add(pid)
        if self.requested is not None:  # it came before the process was known
            self._tell(pid)
        try:
            yield
        finally:
            self._workers.discard(pid)

    def work_for_parent(self) -> None:
        """In a forked process: leave the terminal's Ctrl-C to the parent, which passes it on."""
        self._workers.clear()
        for number in ASKED:
            signal.signal(number, signal.SIG_IGN)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            os._exit(128 + number)
        self.requested = number
        for pid in self._workers:
            self._tell(pid)

    def _told(self, number: int, frame: FrameType | None) -> None:
        self.requested = self.requested or signal.SIGINT

    def _tell(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, PASSED_ON)
