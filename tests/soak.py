"""Kill real runs, let their writes fail: each must end as the run left alone, bit by bit.

    python -m tests.soak --kills 50
    python -m tests.soak --kills 3 --seed 1 --part kills

A run is killed at a random moment, every other time while it writes a file, and resumed until it ends. Runs are forks
of this process, which has imported everything. Exit code 1 if any run ends otherwise, or does not say what was wrong.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import torch
from threadpoolctl import threadpool_limits

import run
from runtime.errors import exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_choices, check_range, flag, from_namespace
from runtime.log import ARRAYS, EVENTS, METRICS
from tests.tiny import make_tiny_data, tiny_flags
from training.checkpointing import RESULTS, STATES

COMMON = (
    *("--dropout", "0.4", "--warmup_epoch", "2", "--num_epochs", "2", "--log_step", "2", "--learning_rate", "0.002"),
    *("--noisy_start", "0.5", "--resume"),
)
EVERY_STEP = ("--save_minutes", "0")
KINDS = {
    "MGCS, SGR, saved every step": (
        *("--module_name", "SGR", "--drift_correction", "both", "--drift_neighbours", "bank", "--batch_size", "32"),
        *EVERY_STEP,
    ),
    "BiCro, VSE, a reader": ("--method", "bicro", "--workers", "1", "--save_minutes", "0.005"),
    "DSDMR, SAF, saved every stage": ("--method", "dsdmr", "--module_name", "SAF", "--min_separation", "0"),
}
"""Runs of a second or two each."""

# -- what a finished run left ----------------------------------------------------------------------------------------

CHECKPOINTS = ("checkpoint_dev_best.pth.tar", "checkpoint_warmup.pth.tar")
WHEREABOUTS = ("output_dir", "resume", "saved_model", "save_minutes")
"""Settings that say where a run wrote and how it was taken up again."""


def outcome(folder: Path) -> dict[str, Any]:
    """Return all that a finished run left, by name, less clocks and places.

    Raises:
        OSError, ValueError: a file of the run is missing or broken.
    """
    found: dict[str, Any] = {"files": sorted(path.name for path in folder.iterdir())}
    for name in CHECKPOINTS:
        if (folder / name).exists():
            content = torch.load(folder / name, weights_only=True)
            found[name] = [{key: value.numpy().tobytes() for key, value in n.items()} for n in content.pop("networks")]
            for setting in WHEREABOUTS:
                content["config"]["training"].pop(setting, None)
            found[f"{name}, beside the networks"] = content
    for path in (folder / ARRAYS).glob("*"):
        found[f"{ARRAYS}/{path.name}"] = path.read_bytes()
    found[METRICS] = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    found[RESULTS] = {key: value for key, value in results.items() if key != "seconds"}
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of what differs between two outcomes."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def leftovers(folder: Path) -> list[str]:
    """Return what a finished run should have removed: states, half-written files, its lock."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.parent.name != EVENTS]
    return sorted(name for name in names if name.endswith(".part") or name in (*STATES, "lock"))


def faults(victim: Victim, output: Path, expected: dict[str, Any]) -> list[str]:
    """Return what is wrong with a run that ended: arrays of divisions that are not there do not count."""
    if victim.wait():
        return [f"exit code {victim.code}: {' / '.join(victim.said()[-3:])}"]
    (folder,) = output.iterdir()
    found = outcome(folder)
    wanted = {name: value for name, value in expected.items() if name in found or not name.startswith(ARRAYS)}
    traces = ["a traceback"] if any(line.startswith("Traceback") for line in victim.said()) else []
    return differences(found, wanted) + leftovers(folder) + traces


# -- runs ------------------------------------------------------------------------------------------------------------


class Victim:
    """A run of `run.py` in a fork, begun now.

    Args:
        data: folder of the data.
        output: folder that the run's folder is made in.
        flags: beside the common ones.
        before: what the fork does before it begins.
    """

    _number = 0

    def __init__(
        self, data: Path, output: Path, flags: Sequence[str], before: Callable[[], None] = lambda: None
    ) -> None:
        Victim._number += 1
        output.parent.mkdir(parents=True, exist_ok=True)
        self._said = output.with_name(f"{output.name} said {Victim._number}")
        self.code: int | None = None
        """Exit code, negative for a signal; None while it runs."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        with contextlib.suppress(OSError):  # whoever of the two comes first
            os.setpgid(self.pid, self.pid)
        if self.pid:
            return
        code, said = 1, os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.dup2(said, 1), os.dup2(said, 2)
            before()
            run.main(tiny_flags(data, output, *COMMON, *flags))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def is_running(self) -> bool:
        """Tell whether it has not ended yet."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code is None

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self) -> bool:
        """Kill it and its forks at once; tell whether it had not ended before."""
        if self.is_running():
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()
        return self.code == -signal.SIGKILL

    def said(self) -> list[str]:
        """Return the lines it has printed so far."""
        return self._said.read_text(encoding="utf-8", errors="replace").splitlines() if self._said.exists() else []


@dataclass
class Soak:
    """Where the runs are, and where it is said how they ended."""

    data: Path
    folder: Path
    say: Callable[[str], None]

    def left_alone(self, name: str, flags: Sequence[str], before: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Return what a run leaves that nothing happens to."""
        output = self.folder / f"{name}, left alone"
        victim = Victim(self.data, output, flags, before)
        assert victim.wait() == 0, victim.said()
        return outcome(next(output.iterdir()))

    def told(self, what: str, wrong: Sequence[str]) -> bool:
        """Say how a run ended; tell whether nothing is wrong."""
        self.say(f"{what}: " + (f"FAIL: {', '.join(wrong)}" if wrong else "bit-identical"))
        return not wrong

    def kill(self, kills: int, random: Random) -> bool:
        """Kill runs until there were so many kills; tell whether every run ended as it would have."""
        alone: dict[str, tuple[dict[str, Any], float]] = {}
        done, survived, runs = 0, 0, 0
        for name in cycle(KINDS):
            if done >= kills:
                break
            if name not in alone:
                began = time.monotonic()
                alone[name] = self.left_alone(name, KINDS[name]), time.monotonic() - began
            expected, seconds = alone[name]
            output, own, runs = self.folder / f"killed {runs}", 0, runs + 1
            while True:
                victim = Victim(self.data, output, KINDS[name])
                if done + own < kills and pursued(victim, output, seconds, random, in_a_save=(done + own) % 2 == 0):
                    own += 1
                else:
                    break
            is_over = victim.wait() == 2 and any("is finished" in line for line in victim.said())
            if is_over:  # it was killed between its results and its end: there is nothing to go on with
                victim.code = 0
            done, survived = (
                done + own,
                survived + own * self.told(f"run {runs} ({name}), {own} kills", faults(victim, output, expected)),
            )
        self.say(f"{survived} of {kills} kills resumed bit-identical, {runs} runs")
        return survived == done

    def fail_writes(self, stride: int) -> bool:
        """Let every `stride`-th save fail in a run of its own, and many of one run; tell whether all ended well."""
        counted = self.folder / "saves"
        expected = self.left_alone("writes", (), FailingDisk("write", lambda _: False, counted).install)
        saves = int(counted.read_text(encoding="utf-8"))
        cases: list[tuple[str, str, Callable[[int], bool]]] = [
            (f"save {number} of {saves}", WAYS[number // stride % len(WAYS)], lambda n, k=number: n == k)
            for number in range(1, saves + 1, stride)
        ]
        cases += [("every third save", way, lambda n: n % 3 == 0) for way in WAYS]
        cases.append((f"each of saves 3 to {saves - 2}", "write", lambda n: 3 <= n <= saves - 2))
        good = 0
        for place, (name, way, fails) in enumerate(cases):
            output = self.folder / f"failing {place}"
            victim = Victim(self.data, output, (), FailingDisk(way, fails).install)
            said = [] if victim.wait() == 0 else victim.said()
            if victim.code == 2:
                victim = Victim(self.data, output, ())
            wrong = faults(victim, output, expected)
            silent = not any("cannot be written" in line for line in [*said, *victim.said()])
            good += self.told(f"{name} fails ({way})", [*wrong, *(["it said nothing"] if silent else [])])
        self.say(f"{good} of {len(cases)} runs with failing writes end as the clean one")
        return good == len(cases)


def pursued(victim: Victim, output: Path, seconds: float, random: Random, *, in_a_save: bool) -> bool:
    """Kill a run within so many seconds, at once where a file is being written, or at a random moment; tell whether it
    was not over before."""
    began, moment = time.monotonic(), random.uniform(0, 0.7 * seconds)
    while victim.is_running() and (time.monotonic() - began < moment or (in_a_save and not [*output.glob("*/*.part")])):
        time.sleep(0.0005)
    return victim.kill()


# -- writes that fail ----------------------------------------------------------------------------------

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

    A save is a file that is written under a temporary name. `counted_in` is a file for the number of saves begun.
    """

    way: str
    fails: Callable[[int], bool]
    counted_in: Path | None = None
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


# -- the command -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SoakConfig:
    """Flags of `python -m tests.soak`."""

    kills: int = flag(50, "how often a run is killed")
    seed: int = flag(0, "seed of the moments")
    stride: int = flag(1, "let every so-many-th write fail, each in a run of its own")
    part: str = flag("all", "what to do", choices=("all", "kills", "write_errors"))

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "kills", low=1)
        check_range(self, "seed", low=0)
        check_range(self, "stride", low=1)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Make the data, do the parts, tell."""
    parser = OneLineParser(prog="python -m tests.soak", description="Kill real runs, let their writes fail, compare.")
    add_flags(parser, "soak", SoakConfig)
    config = from_namespace(SoakConfig, parser.parse_args(argv))
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    data = make_tiny_data(folder / "data", images={"train": 24, "dev": 8, "test": 8})
    torch.set_num_threads(1)
    threadpool_limits(limits=1)  # scikit-learn's threads, once there are some, do not survive a fork
    with contextlib.redirect_stdout(io.StringIO()):  # what a run imports and sets up late is then there for all forks
        run.main(tiny_flags(data, folder / "first", *COMMON))
    soak = Soak(data, folder, lambda line: print(line, flush=True))
    is_good = True
    if config.part in ("all", "kills"):
        is_good &= soak.kill(config.kills, Random(config.seed))
    if config.part in ("all", "write_errors"):
        is_good &= soak.fail_writes(config.stride)
    if not is_good:
        print(f"everything is kept in {folder}", flush=True)
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
