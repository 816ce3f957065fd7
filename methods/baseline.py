"""Plain training: every pair as it is given, hardest negatives (SCAN, SGRAF). What robust methods must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.blocks.method import Method, SoftLabels, StudentAndPeer


class Baseline(Method):
    """No division and no soft labels; two independent networks, so that means are compared with means."""

    divides = False

    def refine(self, clean: StudentAndPeer, noisy: StudentAndPeer | None, probability: Tensor) -> SoftLabels:
        """Return label 1 for every pair."""
        return SoftLabels(clean=torch.ones_like(probability))


METHOD = Baseline
