"""Where the arithmetic runs: `--gpu N` if CUDA is there, the CPU otherwise; and whether it repeats bit by bit."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from runtime.errors import InputError, say_aside

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
REPEATING_WORKSPACES = (":4096:8", ":16:8")
"""Settings under which cuBLAS promises the same bits; its default lets streams share a workspace."""


def choose_device(gpu: str) -> torch.device:
    """Return the device for `--gpu`: a CUDA index ("0"), or "cpu".

    Without CUDA every index means the CPU; of one that is not the default's this is said on stderr.

    Raises:
        InputError: the value is neither an index nor "cpu", or there is no GPU of that index.
    """
    if gpu == "cpu":
        return torch.device("cpu")
    if not gpu.isdecimal():
        raise InputError(f"--gpu {gpu!r} is not a device; give a GPU's index (0, 1, ...) or cpu")
    if not torch.cuda.is_available():
        if int(gpu):
            say_aside(f"warning: --gpu {gpu}: this machine has no CUDA; the CPU is used")
        return torch.device("cpu")
    if int(gpu) >= torch.cuda.device_count():
        raise InputError(f"--gpu {gpu} does not exist; this machine has {torch.cuda.device_count()} GPU(s), from 0")
    return torch.device("cuda", int(gpu))


def keep_freed_memory() -> None:
    """Let the C library keep memory that was freed, up to 256 MiB of it; nothing happens where it is not glibc.

    A training step on a processor frees the same blocks of some MiB again and again and asks for them anew. Fresh
    memory from the system is filled with zeros first, which costs a fifth of a step of the embedded recipes.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: blocks up to this size come from the heap
        library.mallopt(-1, 256 * 2**20)  # M_TRIM_THRESHOLD: so much of it is kept


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Let torch compute only what repeats bit by bit inside the block, if that is `wanted` (`--deterministic`).

    On a processor the suite's arithmetic repeats with the same number of threads anyway; operators that would not are
    refused. On CUDA operators take their repeatable ways, which cost time, cuDNN and cuBLAS included; cuBLAS reads its
    setting when it starts, so that the block must begin before the first product. Another GPU, driver or torch version
    may round differently all the same.

    Raises:
        InputError: the environment asks cuBLAS for what does not repeat, or an operator has no repeatable way.
    """
    if not wanted:
        yield
        return
    given = os.environ.get(CUBLAS_WORKSPACE)
    if given is not None and given not in REPEATING_WORKSPACES:
        raise InputError(
            f"--deterministic: the environment's {CUBLAS_WORKSPACE} is {given!r}; unset it, or make it "
            f"{' or '.join(REPEATING_WORKSPACES)}"
        )
    os.environ[CUBLAS_WORKSPACE] = given or REPEATING_WORKSPACES[0]
    cudnn = torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark)
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        why = str(error).split(", but you set")[0].split("\n")[0]
        raise InputError(f"--deterministic: {why}; use --gpu cpu, or leave --deterministic out") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        if given is None:
            del os.environ[CUBLAS_WORKSPACE]
