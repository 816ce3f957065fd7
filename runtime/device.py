"""Where the arithmetic runs: `--gpu N` if CUDA is there, the CPU otherwise."""

from __future__ import annotations

import torch

from runtime.errors import InputError


def choose_device(gpu: str) -> torch.device:
    """Return the device for `--gpu`: a CUDA index ("0"), or "cpu". Without CUDA every index means the CPU.

    Raises:
        InputError: the value is neither an index nor "cpu", or there is no GPU of that index.
    """
    if gpu == "cpu":
        return torch.device("cpu")
    if not gpu.isdecimal():
        raise InputError(f"--gpu {gpu!r} is not a device; give a GPU's index (0, 1, ...) or cpu")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if int(gpu) >= torch.cuda.device_count():
        raise InputError(f"--gpu {gpu} does not exist; this machine has {torch.cuda.device_count()} GPU(s), from 0")
    return torch.device("cuda", int(gpu))
