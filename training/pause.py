"""When training pauses to be saved: every so many minutes, and when it is asked to end."""

from __future__ import annotations

import time

from runtime.errors import Interruption


class Pauses:
    """Says when a pause is due; forked processes see the same moment.

    Args:
        minutes: between saves.
        interruption: whether the program was asked to end.
    """

    def __init__(self, minutes: float, interruption: Interruption) -> None:
        self._seconds, self._interruption = 60 * minutes, interruption
        self._next = time.monotonic() + self._seconds

    def is_due(self) -> bool:
        """Tell whether to save now."""
        return self._interruption.requested is not None or time.monotonic() >= self._next

    def taken(self) -> None:
        """Begin to wait for the next one."""
        self._next = time.monotonic() + self._seconds
