"""Independent work of two networks at the same time, each with its share of the processor's threads.

Operators on small tensors gain little from a second thread. Where they dominate (small networks, small batches) it is
better to give each network a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

T = TypeVar("T")


def run_side_by_side(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Run tasks that do not touch each other's data; return their results in order.

    Raises:
        Exception: the first one that a task raised, once all have ended.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // len(tasks))
    try:
        with ThreadPoolExecutor(max_workers=len(tasks), initializer=partial(torch.set_num_threads, share)) as pool:
            return [future.result() for future in [pool.submit(task) for task in tasks]]
    finally:
        torch.set_num_threads(threads)
