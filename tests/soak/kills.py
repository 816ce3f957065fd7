"""Kill small runs at random moments, go on with each until it ends, compare with the run that nobody killed.

A moment is drawn in two steps: where (a save, a division, ..., or anywhere), and then when, once the run is there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from tests.soak.kinds import KINDS
from tests.soak.outcome import differences, leftovers, outcome
from tests.soak.victims import START, Victim
from training.files import RESULTS

ANYWHERE = "anywhere"
TARGETS = ("a save", "an epoch", START, "warm-up", "a division", "validation", "the test", "a save", ANYWHERE)
FRESH_EVERY = 5
"""Every so many processes one is a fresh interpreter and no fork."""
START_SECONDS = {False: 0.3, True: 3.0}
"""How long a start takes, at most, of a fork and of a fresh interpreter."""
LOOK_SECONDS = 0.01
MISSES = 20
"""Runs that may end before they come to where they were to be killed, before that is taken for a fault."""


@dataclass
class Campaign:
    """Kills, and the runs that survived them.

    Args:
        data: folder of the data.
        folder: everything is written below it.
        say: prints a line.
    """

    data: Path
    folder: Path
    random: Random
    say: Callable[[str], None]
    runs: int = 0
    kills: int = 0
    survived: int = 0
    """Kills of runs that ended as they would have without."""
    places: Counter[str] = field(default_factory=Counter)
    _clean: dict[str, dict[str, Any]] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _processes: int = 0

    def kill(self, number: int) -> bool:
        """Kill `number` times; tell whether every run ended as it would have."""
        targets = list(islice(cycle(TARGETS), number))
        self.random.shuffle(targets)
        misses = 0
        for name in cycle(KINDS):
            if not targets or misses > MISSES:
                break
            before = self.kills
            self._one_run(name, targets)
            misses = 0 if self.kills > before else misses + 1
            self.random.shuffle(targets)
        if targets:
            self.say(f"FAIL: {misses} runs ended before they came to {', '.join(sorted(set(targets)))}")
        return not targets and self.survived == self.kills

    def _one_run(self, name: str, targets: list[str]) -> None:
        """Start a run, kill and resume it as long as the next target is met, compare it in the end."""
        if name not in self._clean:
            self._learn(name)
        output, kills, line = self.folder / f"run {self.runs}", 0, ""
        self.runs += 1
        while True:
            victim = self._begin(name, output)
            place = self._pursue(victim, targets[-1], name, output) if targets else None
            if place is None:
                code = victim.wait()
            if line:
                self.say(f"{line}; {_first_words(victim)}")
            if place is None:
                break
            targets.pop()
            kills, self.kills = kills + 1, self.kills + 1
            self.places[place.split(" (")[0]] += 1
            line = f"kill {self.kills}: run {self.runs} ({name}) in {place}"
        if code and kills and any(output.glob(f"*/{RESULTS}")) and "is finished" in _first_words(victim):
            code = 0  # killed between its results and its end: there is nothing to go on with
        if code:
            self.say(f"FAIL: run {self.runs} ({name}) ended with exit code {code}: {' / '.join(victim.said()[-3:])}")
            return
        (folder,) = output.iterdir()
        found = outcome(folder, by_network=KINDS[name].by_network)
        differing = differences(found, self._clean[name]) + leftovers(folder)
        self.survived += 0 if differing else kills
        verdict = f"FAIL: differs or is left over: {', '.join(differing)}" if differing else "bit-identical"
        self.say(f"run {self.runs} ({name}): {kills} kills, {verdict}")

    def _learn(self, name: str) -> None:
        """Let a run of this kind be, to know what it leaves and how long it takes."""
        output = self.folder / f"clean {len(self._clean)}"
        started = time.monotonic()
        victim = self._begin(name, output, is_fresh=False)
        assert victim.wait() == 0, victim.said()
        self._seconds[name] = time.monotonic() - started
        (folder,) = output.iterdir()
        self._clean[name] = outcome(folder, by_network=KINDS[name].by_network)
        self.say(f"left alone: {name}, {self._seconds[name]:.1f} s")

    def _begin(self, name: str, output: Path, is_fresh: bool | None = None) -> Victim:
        self._processes += 1
        kind, notes = KINDS[name], self.folder / "processes" / str(self._processes)
        fresh = self._processes % FRESH_EVERY == 0 if is_fresh is None else is_fresh
        self._is_fresh = fresh
        return Victim(kind.argv(self.data, output), notes, threads=kind.threads, is_fresh=fresh)

    def _pursue(self, victim: Victim, target: str, name: str, output: Path) -> str | None:
        """Kill a run at the target; return where it was, None if it ended before it came there."""
        random = self.random
        if target in (START, ANYWHERE):
            time.sleep(random.uniform(0, START_SECONDS[self._is_fresh] if target == START else self._seconds[name]))
            place = victim.place() if victim.is_running() else None
        elif target == "a save":
            place = _written(victim, output, random.randint(1, 8))
        else:
            place, left = None, random.randint(1, 4)
            while victim.is_running() and left:
                time.sleep(random.uniform(0, LOOK_SECONDS))
                place = victim.place()
                left -= place == target
        if not victim.kill():
            return None
        torn = [f"{path.name} of {path.stat().st_size} bytes is left" for path in output.rglob("*.part")]
        return f"{place or 'an unknown place'} ({', '.join(torn)})" if torn else place or "an unknown place"


def _written(victim: Victim, output: Path, number: int) -> str | None:
    """Wait for the `number`-th file that is being written; return its name, None if the run ends before."""
    is_there = False
    while victim.is_running():
        found = [*output.glob("*/*.part")]
        if found and not is_there:
            number -= 1
            if not number:
                return f"a save of {found[0].name.removesuffix('.part')}"
        is_there = bool(found)
    return None


def _first_words(victim: Victim) -> str:
    """Return what a resumed run said of that."""
    said = [line for line in victim.said() if line.startswith(("resumed in", "error")) or "is damaged" in line]
    told = [f"resumed at {line.rpartition(' at ')[2]}" if line.startswith("resumed") else line for line in said]
    anew = "began anew, nothing was saved yet" if victim.said() else "killed before it said anything"
    return "; ".join(told) or anew
