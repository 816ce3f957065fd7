"""Small runs in processes of their own: asked where they are, killed with all that they forked, compared bit by bit.

A run is asked by a signal, on which it writes down its stack: this interrupts nothing and changes nothing.
Most runs are forks of this process, which has imported everything; some are fresh interpreters, which takes seconds:

    python -m tests.soak.victims STACKS RUN_FLAGS...
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from threadpoolctl import threadpool_limits

import run
from runtime.log import ARRAYS, EVENTS, METRICS
from tests.tiny import make_tiny_data, tiny_flags
from training.saved_state import NAMES

# -- what a run can be made of, in a second or two each ----------------------------------------------------------------

IMAGES = {"train": 24, "dev": 8, "test": 8}
COMMON = (
    *("--dropout", "0.4", "--warmup_epoch", "2", "--num_epochs", "2", "--log_step", "2", "--learning_rate", "0.002"),
    "--resume",
)


@dataclass(frozen=True)
class Kind:
    """A small run: its flags, the threads that torch has, and whether the networks' records come as they come."""

    flags: tuple[str, ...]
    threads: int = 1
    by_network: bool = False

    def argv(self, data: Path, output: Path) -> list[str]:
        """Return run.py's arguments: start, or go on if there is anything to go on with."""
        return tiny_flags(data, output, *COMMON, *self.flags)


EVERY_STEP, NOW_AND_THEN = ("--save_minutes", "0"), ("--save_minutes", "0.005")
KINDS = {
    "MGCS, SGR, saved every step": Kind(
        (
            *("--module_name", "SGR", "--noisy_start", "0.5", "--drift_correction", "both"),
            *("--drift_neighbours", "bank", "--batch_size", "32", *EVERY_STEP),
        )
    ),
    "MGCS, SGR, side by side": Kind(
        ("--module_name", "SGR", "--noisy_start", "1", "--side_by_side", *NOW_AND_THEN), threads=2, by_network=True
    ),
    "BiCro, VSE, a reader": Kind(("--method", "bicro", "--noisy_start", "0.5", "--workers", "1", *NOW_AND_THEN)),
    "DSDMR, SAF, saved every stage": Kind(("--method", "dsdmr", "--module_name", "SAF", "--min_separation", "0")),
}


def make_data(root: Path) -> Path:
    """Make the data of all kinds; return its folder."""
    return make_tiny_data(root / "data", images=IMAGES)


# -- processes -------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]
ASK = signal.SIGUSR2
READY = b"ready\n"
END = "."
"""Last line of a stack."""
ANSWER_SECONDS = 0.05
PLACES = (
    ("a save", r"/whole_file$|saved_state\.py/save$"),
    ("the test", r"training/\w+\.py/test$"),
    ("validation", r"training/\w+\.py/(validate|evaluate)$"),
    ("a division", r"training/\w+\.py/divide"),
    ("warm-up", r"training/\w+\.py/warm_up"),
    ("an epoch", r"training/\w+\.py/train_epoch"),
    ("between stages", r"training/\w+\.py/train$"),
)
"""Where a run is, by the first pattern that fits a frame (file/function) of its stack."""
START = "the start"
"""None of them: the interpreter starts, data are opened, a state is loaded."""


def place_of(stack: Sequence[str]) -> str:
    """Return where a run with this stack of file/function is."""
    return next((place for place, pattern in PLACES if any(re.search(pattern, frame) for frame in stack)), START)


class Victim:
    """A run of `run.py` with these arguments, begun now.

    Args:
        argv: its arguments.
        folder: where what it says and its stacks go; it is made.
        threads: that torch has in it.
        is_fresh: an interpreter of its own instead of a fork.
        before: what a fork does before it begins.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        *,
        threads: int = 1,
        is_fresh: bool = False,
        before: Callable[[], None] | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        self._said, self._stacks = folder / "said", folder / "stacks"
        self.code: int | None = None
        """Exit code, negative for a signal; None while it runs."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        with contextlib.suppress(OSError):  # whoever of the two comes first; the other need not, or may not any more
            os.setpgid(self.pid, self.pid)
        if not self.pid:
            output = os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            if is_fresh:
                environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
                command = [sys.executable, "-m", "tests.soak.victims", str(self._stacks), *argv]
                os.execve(sys.executable, command, environment)
            torch.set_num_threads(threads)
            _run(self._stacks, argv, before)

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

    def place(self) -> str | None:
        """Ask where it is; None if it does not answer soon, as in the middle of a system call."""
        if not self._stacks.exists() or not self._stacks.stat().st_size:
            return START
        before = self._stacks.stat().st_size
        os.kill(self.pid, ASK)
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.0005)
            stack = self._stacks.read_bytes()[before:].decode().splitlines()
            if stack and stack[-1] == END:
                return place_of(stack)
        return None


def run_here(argv: Sequence[str]) -> None:
    """Do a run in this process, with one thread: what a run imports and sets up late is then there for all forks."""
    torch.set_num_threads(1)
    threadpool_limits(limits=1)  # scikit-learn's threads, once there are some, do not survive a fork
    with contextlib.redirect_stdout(io.StringIO()):
        run.main(list(argv))


def _run(stacks: Path, argv: Sequence[str], before: Callable[[], None] | None = None) -> NoReturn:
    """Be a run."""
    answers = os.open(stacks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def answer(number: int, frame: FrameType | None) -> None:
        lines = []
        while frame is not None:
            lines.append(f"{frame.f_code.co_filename}/{frame.f_code.co_name}\n")
            frame = frame.f_back
        os.write(answers, "".join([*lines, END, "\n"]).encode())

    signal.signal(ASK, answer)
    signal.siginterrupt(ASK, False)  # system calls go on
    os.write(answers, READY)
    code = 1
    try:
        if before is not None:
            before()
        run.main(list(argv))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an interpreter that ends in its own way answers no signals, and dies of them


# -- what a finished run left ----------------------------------------------------------------------------------------

CHECKPOINTS = ("checkpoint_dev_best.pth.tar", "checkpoint_warmup.pth.tar")
CLOCKS = ("seconds",)
"""Fields of results.json that tell the time."""
WHEREABOUTS = ("output_dir", "resume", "saved_model", "save_minutes")
"""Settings that say where a run wrote and how it was taken up again."""


def outcome(folder: Path, *, by_network: bool = False) -> dict[str, Any]:
    """Return all that a finished run left, by name, less clocks and places.

    Args:
        by_network: compare the order of each network's records, and not who comes first: networks side by side hand in
            their records at every save, so that a clock decides that.

    Raises:
        OSError, ValueError: a file of the run is missing or broken.
    """
    found: dict[str, Any] = {"files": sorted(path.name for path in folder.iterdir())}
    for name in CHECKPOINTS:
        if not (folder / name).exists():
            continue
        content = torch.load(folder / name, weights_only=True)
        found[name] = [{key: value.numpy().tobytes() for key, value in n.items()} for n in content.pop("networks")]
        _forget_places(content["config"])
        found[f"{name}, beside the networks"] = content
    for path in (folder / ARRAYS).glob("*"):
        found[f"{ARRAYS}/{path.name}"] = path.read_bytes()
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    found[METRICS] = sorted(lines, key=lambda line: json.loads(line).get("network", "")) if by_network else lines
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found["results.json"] = {key: value for key, value in results.items() if key not in CLOCKS}
    return found


def _forget_places(config: dict[str, Any]) -> None:
    for name in WHEREABOUTS:
        config["training"].pop(name, None)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of what differs between two outcomes."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def leftovers(folder: Path) -> list[str]:
    """Return what a finished run should have removed: states, half-written files, its lock."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.parent.name != EVENTS]
    return sorted(name for name in names if name.endswith(".part") or name in (*NAMES, "lock"))


if __name__ == "__main__":
    _run(Path(sys.argv[1]), sys.argv[2:])
