"""Independent work at the same time, each piece in a process of its own with one thread.

Operators on small tensors gain little from a second thread, and two Python threads wait for each other's lock. Where
small operators dominate (small networks, small batches) a process for each network is faster. Processes are forks: they
see everything as it was when the work began, and what they change reaches nobody but through what they return.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

from runtime.errors import Interruption

T = TypeVar("T")


def is_possible(device: torch.device) -> bool:
    """Tell whether work may be done side by side: on Linux, on a processor, with a thread for more than one.

    Forks of a process that has used CUDA cannot use it, and other systems' libraries do not survive a fork.
    """
    return sys.platform == "linux" and device.type == "cpu" and torch.get_num_threads() > 1


def run_side_by_side(tasks: Sequence[Callable[[], T]], interruption: Interruption) -> list[T]:
    """Run each task in a fork of this process with one thread; return their results, which are pickled, in order.

    A request to end is passed on to the forks' own copies of `interruption`.

    Raises:
        Exception: the first one (in the order of the tasks) that a task raised, once all have ended.
        RuntimeError: a process died.
    """
    context = multiprocessing.get_context("fork")
    watched, held = os.pipe()  # `held` closes when this process dies, however it does: nobody is left behind
    sys.stdout.flush()
    sys.stderr.flush()
    started: list[tuple[Any, Connection]] = []
    try:
        for task in tasks:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(task, sender, watched, held, interruption))
            process.start()
            sender.close()
            started.append((process, receiver))
        with ExitStack() as told:
            for process, _ in started:
                told.enter_context(interruption.passed_on(process.pid))
            outcomes = [_outcome(process, receiver) for process, receiver in started]
    finally:
        for process, receiver in started:
            if process.is_alive():
                process.kill()  # whatever it would have said, nobody waits for it any more
            process.join()
            receiver.close()
        os.close(watched)
        os.close(held)
    for _, error in outcomes:
        if error is not None:
            raise error
    return [result for result, _ in outcomes]


def _outcome(process: Any, receiver: Connection) -> tuple[Any, Exception | None]:
    """Wait for what a process has to say: its result, or the exception that ended it."""
    try:
        said = receiver.recv_bytes()
    except EOFError:
        process.join()
        code = process.exitcode
        why = f"signal {-code}; out of memory?" if code and code < 0 else f"exit code {code}"
        return None, RuntimeError(f"a process of --side_by_side died ({why})")
    process.join()
    return pickle.loads(said)  # from a fork of this very process


def _work(task: Callable[[], Any], sender: Connection, watched: int, held: int, interruption: Interruption) -> None:
    """Do a task in a fork and send back its result."""
    interruption.work_for_parent()
    os.close(held)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    torch.set_num_threads(1)
    threadpool_limits(limits=1)  # scikit-learn's k-means would wait for threads that a fork does not have
    try:
        said = pickle.dumps((task(), None))
    except Exception as error:
        said = _described(error)
    sender.send_bytes(said)


def _end_with_parent(watched: int) -> None:
    os.read(watched, 1)  # returns only once the other end is closed
    os._exit(1)


def _described(error: Exception) -> bytes:
    """Pickle an exception with the place it came from, or its text if it cannot be pickled."""
    where = "".join(traceback.format_exception(error))
    try:
        error.add_note(f"in a process of --side_by_side:\n{where}")
        said = pickle.dumps((None, error))
        pickle.loads(said)
    except Exception:  # whatever hinders pickling, the text gets through
        said = pickle.dumps((None, RuntimeError(where)))
    return said
