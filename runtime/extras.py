"""Packages that only some commands need: a missing one is an error for people, when it is needed."""

from __future__ import annotations

from typing import Any

from runtime.errors import InputError

REPORT = "requirements-report.txt"
"""What report.py, audit.py and search.py need beside requirements.txt."""
CLIP = "requirements-clip.txt"
"""What tools/clip_tuning and pictures need."""


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
