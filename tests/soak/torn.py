"""Damage the latest state of an interrupted run, and go on from the one before."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.soak.kinds import EVERY_STEP, Kind
from tests.soak.outcome import outcome
from tests.soak.victims import Victim
from tests.soak.write_errors import compared
from training.saved_state import NAMES, SavedState

KIND = Kind(("--noisy_start", "0.5", *EVERY_STEP))
ENOUGH = 8
"""Generations after which the run is killed."""


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    place = 2 * len(content) // 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _emptied(content: bytes) -> bytes:
    return b""


DAMAGES: dict[str, Callable[[bytes], bytes]] = {"cut": _cut, "one bit flipped": _flipped, "emptied": _emptied}


def go_on_from_torn_states(data: Path, folder: Path, say: Callable[[str], None]) -> bool:
    """Damage a state in each way; tell whether every run says so and ends as the one left alone."""
    folder.mkdir()
    clean = Victim(KIND.argv(data, folder / "clean"), folder / "clean's notes")
    assert clean.wait() == 0, clean.said()
    expected = outcome(next((folder / "clean").iterdir()))
    good = 0
    for name, damage in DAMAGES.items():
        output = folder / name / "output"
        latest = _interrupted(Victim(KIND.argv(data, output), folder / name / "notes"), output)
        latest.write_bytes(damage(latest.read_bytes()))
        again = Victim(KIND.argv(data, output), folder / name / "notes again")
        code = again.wait()
        told = [line for line in again.said() if "is damaged" in line]
        problems = [f"exit code {code}"] if code else compared(latest.parent, expected)
        problems += [] if len(told) == 1 and latest.name in told[0] else ["it did not say so"]
        good += not problems
        verdict = f"FAIL: {', '.join(problems)}" if problems else told[0].replace(str(output), "output")
        say(f"latest state {name}: {verdict}")
    say(f"{good} of {len(DAMAGES)} runs with a damaged state end as the clean one")
    return good == len(DAMAGES)


def _interrupted(victim: Victim, output: Path) -> Path:
    """Kill a run once it has saved enough; return its latest state file."""
    while victim.is_running():
        states = [path for name in NAMES for path in output.glob(f"*/{name}")]
        if len(states) == len(NAMES) and _generation(states[0].parent) >= ENOUGH and victim.kill():
            return states[0].parent / NAMES[_generation(states[0].parent) % len(NAMES)]
        time.sleep(0.01)
    raise AssertionError(f"the run ended before it was killed: {victim.said()[-3:]}")


def _generation(folder: Path) -> int:
    return int(SavedState(folder).load()[0]["generation"])
