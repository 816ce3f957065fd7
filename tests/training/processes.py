"""What test_distributed.py lets torchrun start: several runs one after the other, each in all processes.

    torchrun --nproc-per-node 2 tests/training/processes.py RUNS.json

RUNS.json lists {"flags": [...], "stop_at": int | null, "die_at": int | null}: the first process is asked to end when it
is asked for the N-th time whether a pause is due; the last one dies at its N-th step.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch.distributed as dist

import run
from runtime.distributed import asked_for
from runtime.errors import Stopped, exit_on_input_error
from training.config import parse_args
from training.network import Network
from training.schedule import Running


def stopping(number: int) -> Any:
    """Ask this process to end at its `number`-th pause."""
    asked, original = itertools.count(1), Running.pause_is_due

    def pause_is_due(self: Running) -> bool:
        if next(asked) == number:
            self.interruption.requested = signal.SIGTERM
        return original(self)

    return mock.patch.object(Running, "pause_is_due", pause_is_due)


def dying(number: int) -> Any:
    """Let this process die before its `number`-th step."""
    taken, original = itertools.count(1), Network.step

    def step(self: Network, *given: Any) -> float:
        if next(taken) == number:
            os._exit(3)
        return original(self, *given)

    return mock.patch.object(Network, "step", step)


@exit_on_input_error
def main(path: str) -> None:
    """Do the runs. All have one group of processes: torchrun's store makes no second one."""
    processes = asked_for()
    dist.init_process_group("gloo")
    for wanted in json.loads(Path(path).read_text()):
        with contextlib.ExitStack() as patches:
            if wanted.get("stop_at") and processes.is_first:
                patches.enter_context(stopping(wanted["stop_at"]))
            if wanted.get("die_at") and processes.rank == processes.count - 1:
                patches.enter_context(dying(wanted["die_at"]))
            with contextlib.suppress(Stopped):
                run.train(parse_args(wanted["flags"]))


if __name__ == "__main__":
    main(sys.argv[1])
