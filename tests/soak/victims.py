"""Runs in processes of their own, which can be asked where they are and be killed with all that they forked.

A run is asked by a signal, on which it writes down its stack: this interrupts nothing and changes nothing.
Most runs are forks of this process, which has imported everything; some are fresh interpreters, which takes seconds:

    python -m tests.soak.victims STACKS RUN_FLAGS...
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from threadpoolctl import threadpool_limits

import run

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


if __name__ == "__main__":
    _run(Path(sys.argv[1]), sys.argv[2:])
