"""Kill real runs, let their writes fail, damage their states, fill their disk: each must end as the run left alone.

python -m tests.soak --kills 50
python -m tests.soak --kills 3 --seed 1 --part kills

A moment to kill is drawn in two steps: where (a save, a division, ..., or anywhere), and then when, once the run is
there. Exit code 1 if any run ends otherwise, or says nothing of what was wrong.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from runtime.errors import exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_choices, check_range, flag, from_namespace
from runtime.log import ARRAYS
from tests.soak.victims import (
    EVERY_STEP,
    KINDS,
    ROOT,
    START,
    Kind,
    Victim,
    differences,
    leftovers,
    make_data,
    outcome,
    run_here,
)
from training.checkpointing import RESULTS, STATES, SavedState

Say = Callable[[str], None]
"""Prints a line."""


def left_alone(kind: Kind, data: Path, folder: Path, before: Callable[[], None] | None = None) -> dict[str, Any]:
    """Return what a run leaves that nothing happens to."""
    victim = Victim(kind.argv(data, folder / "clean"), folder / "clean's notes", threads=kind.threads, before=before)
    assert victim.wait() == 0, victim.said()
    return outcome(next((folder / "clean").iterdir()), by_network=kind.by_network)


def compared(folder: Path, expected: dict[str, Any]) -> list[str]:
    """Return what differs; arrays of divisions that are not there do not count, as a run goes on without them."""
    found = outcome(folder)
    wanted = {name: value for name, value in expected.items() if name in found or not name.startswith(ARRAYS)}
    return differences(found, wanted) + leftovers(folder)


# -- kills at random moments -------------------------------------------------------------------------------------------

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
    """

    data: Path
    folder: Path
    random: Random
    say: Say
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
        started = time.monotonic()
        self._clean[name] = left_alone(KINDS[name], self.data, self.folder / name)
        self._seconds[name] = time.monotonic() - started
        self.say(f"left alone: {name}, {self._seconds[name]:.1f} s")

    def _begin(self, name: str, output: Path) -> Victim:
        self._processes += 1
        kind, notes = KINDS[name], self.folder / "processes" / str(self._processes)
        self._is_fresh = self._processes % FRESH_EVERY == 0
        return Victim(kind.argv(self.data, output), notes, threads=kind.threads, is_fresh=self._is_fresh)

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


# -- writes that fail --------------------------------------------------------------------------------------------------

BRIEF = Kind(("--num_epochs", "2", "--noisy_start", "0.5"))
WAYS = ("write", "fsync", "rename")
"""Where a save fails: after its first bytes, when they are flushed to the disk, when the file gets its name."""
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _AlmostFull(io.FileIO):
    """A file on a disk with room for a few bytes: what is written is cut there, and then refused."""

    room = 512

    def write(self, content: Any) -> int:
        fitting = memoryview(content).cast("B")[: self.room]
        if not fitting:
            raise NO_SPACE
        written = super().write(fitting)
        self.room -= written
        return written


@dataclass
class FailingDisk:
    """Lets the saves fail whose number `fails` names, counted from 1 in the order in which they begin.

    A save is a file that is written under a temporary name.
    """

    way: str
    fails: Callable[[int], bool]
    counted_in: Path | None = None
    """A file for the number of saves that were begun."""
    saves: int = 0

    def install(self) -> None:
        """Replace this process's ways to write."""
        real_open, real_fsync, real_replace = builtins.open, os.fsync, os.replace

        def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode == "wb" and str(file).endswith(".part"):
                self.saves += 1
                if self.counted_in is not None:
                    self.counted_in.write_text(str(self.saves), encoding="utf-8")
                if self._is_due("write"):
                    return io.BufferedWriter(_AlmostFull(file, "w"))
            return real_open(file, mode, *args, **kwargs)

        def fsync(descriptor: int) -> None:
            if self._is_due("fsync"):
                raise NO_SPACE
            real_fsync(descriptor)

        def replace(source: Any, target: Any) -> None:
            if self._is_due("rename"):
                raise NO_SPACE
            real_replace(source, target)

        builtins.open, os.fsync, os.replace = open_, fsync, replace  # type: ignore[assignment]

    def _is_due(self, way: str) -> bool:
        return way == self.way and self.fails(self.saves)


def fail_writes(data: Path, folder: Path, stride: int, say: Say) -> bool:
    """Let every `stride`-th save fail in a run of its own, and many saves of one run; tell whether all ended well."""
    started = time.monotonic()
    folder.mkdir()
    expected = left_alone(BRIEF, data, folder, FailingDisk(WAYS[0], lambda _: False, folder / "saves").install)
    saves = int((folder / "saves").read_text(encoding="utf-8"))
    say(f"left alone: {saves} saves")
    cases: list[tuple[str, str, Callable[[int], bool]]] = []
    for place, number in enumerate(range(1, saves + 1, stride)):
        ways = WAYS if stride == 1 else (WAYS[place % len(WAYS)],)
        cases += [(f"save {number} of {saves}", way, lambda n, k=number: n == k) for way in ways]
    cases.append(("every second save", WAYS[0], lambda n: n % 2 == 0))
    if stride == 1:
        cases += [("every third save", way, lambda n: n % 3 == 0) for way in WAYS]
        cases.append((f"each of saves 3 to {saves - 2}", WAYS[0], lambda n: 3 <= n <= saves - 2))
    good = 0
    for place, (name, way, fails) in enumerate(cases):
        good += _ends_well(f"{name} fails ({way})", data, folder / str(place), FailingDisk(way, fails), expected, say)
    say(f"{good} of {len(cases)} runs with failing writes end as the clean one, {time.monotonic() - started:.0f} s")
    return good == len(cases)


def _ends_well(name: str, data: Path, folder: Path, disk: FailingDisk, expected: dict[str, Any], say: Say) -> bool:
    """Let a run meet a failing disk, resume it if that ended it, and compare."""
    output = folder / "output"
    victim = Victim(BRIEF.argv(data, output), folder / "notes", before=disk.install)
    code, said = victim.wait(), victim.said()
    if code == 2:
        again = Victim(BRIEF.argv(data, output), folder / "notes again")
        code, said = again.wait(), said + again.said()
    told = [line for line in said if "cannot be written" in line]
    how = "went on" if victim.code == 0 else "ended with one line and was resumed"
    problems = [f"exit code {code}"] if code else compared(next(output.iterdir()), expected)
    problems += [] if told else ["it said nothing"]
    problems += ["a traceback"] if any(line.startswith("Traceback") for line in said) else []
    if problems:
        say(f"FAIL: {name}: {', '.join(problems)}; it said: {' / '.join(said[-4:])}")
        return False
    say(f"{name}: {how}; {told[0].replace(str(output), 'output')}")
    return True


# -- damaged states ----------------------------------------------------------------------------------------------------

STEPWISE = Kind(("--noisy_start", "0.5", *EVERY_STEP))
ENOUGH = 8
"""Generations after which the run is killed."""


def _flipped(content: bytes) -> bytes:
    place = 2 * len(content) // 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "one bit flipped": _flipped,
    "emptied": lambda content: b"",
}


def go_on_from_torn_states(data: Path, folder: Path, say: Say) -> bool:
    """Damage a state in each way; tell whether every run says so and ends as the one left alone."""
    folder.mkdir()
    expected = left_alone(STEPWISE, data, folder)
    good = 0
    for name, damage in DAMAGES.items():
        output = folder / name / "output"
        latest = _interrupted(Victim(STEPWISE.argv(data, output), folder / name / "notes"), output)
        latest.write_bytes(damage(latest.read_bytes()))
        again = Victim(STEPWISE.argv(data, output), folder / name / "notes again")
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
        states = [path for name in STATES for path in output.glob(f"*/{name}")]
        if len(states) == len(STATES) and _generation(states[0].parent) >= ENOUGH and victim.kill():
            return states[0].parent / STATES[_generation(states[0].parent) % len(STATES)]
        time.sleep(0.01)
    raise AssertionError(f"the run ended before it was killed: {victim.said()[-3:]}")


def _generation(folder: Path) -> int:
    return int(SavedState(folder).load()[0]["generation"])


# -- a disk that is full for a while -----------------------------------------------------------------------------------

OFTEN_SAVED = Kind(("--num_epochs", "2", "--noisy_start", "0.5", "--save_minutes", "0.001"))
MEBIBYTES = 16
COMPLAINTS = 4
"""Lines of the run after which there is room again."""
FILLED_AFTER = "warm-up 1/"


def run_on_a_full_disk(data: Path, folder: Path, say: Say) -> bool:
    """Compare a run whose disk is full for a while with one that has room; tell whether they are the same.

    Where mounting is not permitted this is said, and counts as well.
    """
    folder.mkdir()
    (folder / "disk").mkdir()
    work = "from tests.soak.__main__ import Path, on_a_small_disk, sys; on_a_small_disk(*map(Path, sys.argv[1:]))"
    mounting = ["unshare", "--map-root-user", "--mount"]
    trial = subprocess.run([*mounting, "mount", "-t", "tmpfs", "tmpfs", folder / "disk"], capture_output=True)
    if trial.returncode:
        say("a disk that is really full: left out, as mounting is not permitted here")
        return True
    expected = left_alone(OFTEN_SAVED, data, folder)
    command = [*mounting, sys.executable, "-c", work, data, folder / "disk", folder / "kept"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    told = [line for line in said if "No space left" in line]
    problems = [f"exit code {done.returncode}: {done.stderr[-300:]}"] if done.returncode else []
    problems += [] if len(told) >= COMPLAINTS else [f"only {len(told)} complaints"]
    if not problems:
        problems += compared(next((folder / "kept").iterdir()), expected)
    problems += ["a traceback"] if any(line.startswith("Traceback") for line in said) else []
    for line in told:
        say(f"  {line.replace(str(folder / 'disk'), 'disk')}")
    say(f"a disk of {MEBIBYTES} MiB, full for a while: " + ("; ".join(problems) or "the run ends as the clean one"))
    return not problems


def _fill(ballast: Path) -> None:
    """Write until nothing fits any more."""
    with open(ballast, "wb", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def on_a_small_disk(data: Path, disk: Path, kept: Path) -> None:
    """Run on a file system in memory, in a mount namespace of its own; copy what is left, as the disk goes with it.

    The disk is filled after the first warm-up epoch and has room again once the run has complained a few times.
    """
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEBIBYTES}m", "tmpfs", disk], check=True)
    ballast, output = disk / "ballast", disk / "output"
    victim = Victim(OFTEN_SAVED.argv(data, output), kept.with_name("notes"))
    _wait_for(victim, lambda lines: any(line.startswith(FILLED_AFTER) for line in lines))
    _fill(ballast)
    _wait_for(victim, lambda lines: sum("No space left" in line for line in lines) >= COMPLAINTS)
    ballast.unlink()
    code, said = victim.wait(), victim.said()
    if code == 2:  # the disk was full to the end
        again = Victim(OFTEN_SAVED.argv(data, output), kept.with_name("notes again"))
        code, said = again.wait(), said + again.said()
    print("\n".join(said))
    shutil.copytree(output, kept)
    sys.exit(code)


def _wait_for(victim: Victim, is_met: Callable[[list[str]], Any]) -> None:
    while victim.is_running() and not is_met(victim.said()):
        time.sleep(0.001)


# -- the command -------------------------------------------------------------------------------------------------------

PARTS = ("all", "kills", "write_errors", "torn", "full_disk")


@dataclass(frozen=True)
class SoakConfig:
    """Flags of `python -m tests.soak`."""

    kills: int = flag(50, "how often a run is killed")
    seed: int = flag(0, "seed of the moments")
    stride: int = flag(1, "let every so-many-th write fail, each in a run of its own")
    part: str = flag("all", "what to do", choices=PARTS)

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "kills", low=1)
        check_range(self, "seed", low=0)
        check_range(self, "stride", low=1)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def kill(config: SoakConfig, data: Path, folder: Path) -> bool:
    """Kill runs; tell whether all of them ended as they would have."""
    started = time.monotonic()
    campaign = Campaign(data, folder, Random(config.seed), say)
    is_good = campaign.kill(config.kills)
    say("where: " + ", ".join(f"{place} {count}" for place, count in sorted(campaign.places.items())))
    say(
        f"{campaign.survived} of {config.kills} kills resumed bit-identical, {campaign.runs} runs, "
        f"{time.monotonic() - started:.0f} s"
    )
    return is_good


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Make the data, do the parts, tell."""
    parser = OneLineParser(prog="python -m tests.soak", description="Kill real runs, let their writes fail, compare.")
    add_flags(parser, "soak", SoakConfig)
    config = from_namespace(SoakConfig, parser.parse_args(argv))
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    data = make_data(folder)
    run_here(KINDS[next(iter(KINDS))].argv(data, folder / "first"))
    is_good = True
    if config.part in ("all", "kills"):
        is_good &= kill(config, data, folder / "kills")
    if config.part in ("all", "write_errors"):
        is_good &= fail_writes(data, folder / "write errors", config.stride, say)
    if config.part in ("all", "torn"):
        is_good &= go_on_from_torn_states(data, folder / "torn", say)
    if config.part in ("all", "full_disk"):
        is_good &= run_on_a_full_disk(data, folder / "full disk", say)
    if not is_good:
        say(f"everything is kept in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
