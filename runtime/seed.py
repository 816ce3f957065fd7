"""Seeds: every random choice of a run comes from a generator that is made here from the run's seed and a purpose."""

from __future__ import annotations

import random
import zlib

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators (weight initialisation)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator of its own for a purpose, e.g. `generator(seed, "shuffle", "A", epoch)`.

    Two purposes have streams of their own (by a checksum of 32 bits): one more draw in one place moves nothing
    elsewhere.
    """
    key = zlib.crc32("/".join(str(part) for part in purpose).encode())
    return torch.Generator().manual_seed((seed * 2_654_435_761 + key) % 2**63)
