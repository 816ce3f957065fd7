"""Batches of pairs in a seeded order; workers and prefetching change when a batch is read, never what is in it.

Legend: B pairs (K of a share), R regions, D feature dimensions, W words of the longest caption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from runtime.distributed import ALONE, Processes, Share
from runtime.errors import InputError

Given = TypeVar("Given")
Prepared = TypeVar("Prepared")

MIN_BATCH = 2
"""A pair alone has no negatives, and batch normalisation no variance: a last batch of one pair is left out."""


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


class Pairs(Protocol):
    """What batches are read from."""

    def batch(self, index: Tensor, share: Share | None = None) -> Batch:
        """Return the pairs of numbers `index` (B,); with `share` the regions of that share alone."""


def shuffled_batches(
    pairs: np.ndarray,
    batch_size: int,
    generator: torch.Generator,
) -> list[Tensor]:
    """Shuffle the pair numbers (n,) and cut them into batches of at most `batch_size` and at least 2."""
    order = torch.from_numpy(pairs)[torch.randperm(len(pairs), generator=generator)]
    return [batch for batch in order.split(batch_size) if len(batch) >= MIN_BATCH]


@dataclass(frozen=True)
class _Reader:
    """Batches of a split, of which several processes may share each."""

    split: Pairs
    processes: Processes

    def __getitem__(self, index: Tensor) -> Batch:
        return self.split.batch(index, self.processes.share(len(index)))


def load(
    split: Pairs,
    batches: list[Tensor],
    workers: int = 0,
    *,
    device: torch.device | None = None,
    processes: Processes = ALONE,
) -> Iterator[Batch]:
    """Yield the batches in the given order, read by `workers` processes ahead of time (0: in this process).

    Args:
        device: where they come; on CUDA each is read, pinned and copied while the one before it is in use.
        processes: who share each batch.
    """
    loader: DataLoader[Batch] = DataLoader(
        _Reader(split, processes),  # type: ignore[arg-type]
        batch_size=None,
        sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=False,
        multiprocessing_context="fork" if workers else None,
    )
    try:
        if device is not None and device.type == "cuda":
            yield from _onto(device, iter(loader))
        else:
            yield from loader if device is None else (batch.to(device) for batch in loader)
    except InputError as error:  # a worker's comes with its traceback in front of the message
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from None


def one_ahead(batches: Iterator[Given], prepare: Callable[[Given], Prepared]) -> Iterator[Prepared]:
    """Yield every batch, prepared; a thread takes and prepares the next one while the one before it is in use."""

    def take() -> Prepared | None:
        batch = next(batches, None)
        return None if batch is None else prepare(batch)

    with ThreadPoolExecutor(max_workers=1) as thread:
        upcoming = thread.submit(take)
        while (prepared := upcoming.result()) is not None:
            upcoming = thread.submit(take)
            yield prepared


def _onto(device: torch.device, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Copy each batch to a CUDA device on a stream of its own, beside the computation on the one before it."""
    copying = torch.cuda.Stream(device)

    def prepare(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(copying):
            return batch.pin_memory().to(device), copying.record_event()

    for batch, is_copied in one_ahead(batches, prepare):
        computing = torch.cuda.current_stream(device)
        computing.wait_event(is_copied)
        for values in (batch.regions, batch.tokens, batch.index, batch.image_id):
            values.record_stream(computing)  # its memory is not the copying stream's again before that one is done
        yield batch


def load_forever(
    split: Pairs,
    pairs: np.ndarray,
    batch_size: int,
    generator: torch.Generator,
    workers: int = 0,
    *,
    device: torch.device | None = None,
    processes: Processes = ALONE,
    skip: int = 0,
) -> Iterator[Batch]:
    """Yield shuffled batches of `pairs` without end, shuffled anew each time round; leave out the first `skip`."""
    while True:
        batches = shuffled_batches(pairs, batch_size, generator)
        yield from load(split, batches[skip:], workers, device=device, processes=processes)
        skip = max(0, skip - len(batches))


def covering_batches(pairs: np.ndarray, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Do what `shuffled_batches` does, but leave no pair out: a pair left alone joins the batch before it."""
    batches = list(torch.from_numpy(pairs)[torch.randperm(len(pairs), generator=generator)].split(batch_size))
    if len(batches) > 1 and len(batches[-1]) < MIN_BATCH:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
