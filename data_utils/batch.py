"""A training batch. Legend: B pairs (K of a share), R regions, D feature dimensions, W words of the longest caption."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from runtime.distributed import Share


@dataclass(frozen=True)
class Batch:
    """B image-caption pairs.

    Attributes:
        regions: (B, R, D) float32; of a shared batch this process's rows alone, (K, R, D).
        tokens: (B, W) int64, zero beyond each caption's length.
        lengths: (B,) int64, at least 2 (`<start>` and `<end>`), on the CPU, where captions are grouped by length.
        index: (B,) int64, each pair's number in the data set.
        image_id: (B,) int64, the image given to each pair; equal numbers are the same image.
        share: what this process does of the batch, where several share it.
    """

    regions: Tensor
    tokens: Tensor
    lengths: Tensor
    index: Tensor
    image_id: Tensor
    share: Share | None = None

    def part(self, index: slice | Tensor) -> Batch:
        """Return some of the pairs."""
        assert self.share is None
        return Batch(
            self.regions[index], self.tokens[index], self.lengths[index], self.index[index], self.image_id[index]
        )

    def __len__(self) -> int:
        return len(self.index)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which CUDA copies beside its computations."""
        return replace(
            self,
            regions=self.regions.pin_memory(),
            tokens=self.tokens.pin_memory(),
            index=self.index.pin_memory(),
            image_id=self.image_id.pin_memory(),
        )

    def to(self, device: torch.device) -> Batch:
        """Move everything but the lengths to `device`."""
        return replace(
            self,
            regions=self.regions.to(device, non_blocking=True),
            tokens=self.tokens.to(device, non_blocking=True),
            index=self.index.to(device, non_blocking=True),
            image_id=self.image_id.to(device, non_blocking=True),
        )
