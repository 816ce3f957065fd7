"""Several processes for one run, started by torchrun: who this one is, and what it exchanges with the others.

    torchrun --nproc-per-node 2 run.py @recipes/f30k_mgcs_0.2.args

Every process holds the same networks and goes through the same batches. Of each batch it encodes its share of the
pairs; encoded regions and words are gathered, so that it can score its images against all captions, and the scores too,
so that every process computes the very same loss. Each then differentiates its own rows of the scores, and gradients
are added up. torch.distributed carries all of it: gloo between processors, nccl between GPUs.
Legend: B pairs of a batch, K rows of a share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from runtime.device import choose_device
from runtime.errors import InputError, ProcessError

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The pairs of a batch that one of several processes encodes, and the rows of the scores that it computes.

    Attributes:
        rank: number of this process.
        count: number of processes.
        total: B. Shares are equal but for the last ones, which may be smaller or empty.
    """

    rank: int
    count: int
    total: int

    @property
    def size(self) -> int:
        """The largest K."""
        return -(-self.total // self.count)

    @property
    def rows(self) -> slice:
        """This process's rows."""
        start = min(self.rank * self.size, self.total)
        return slice(start, min(start + self.size, self.total))

    def gathered(self, own: Tensor) -> Tensor:
        """Return what all processes have, (B, ...), of this one's (K, ...); their gradients are added up.

        For what each process goes on to use in its own way.
        """
        return _Gathered.apply(own, self)

    def joined(self, own: Tensor) -> Tensor:
        """Return what all processes have, (B, ...), of this one's (K, ...); the gradient is that of the own rows.

        For what enters a loss that all processes compute alike.
        """
        whole = self.collect(own)
        whole[self.rows] = own
        return whole

    def owned(self, whole: Tensor) -> Tensor:
        """Return (B, ...) as it is, with gradient in this process's rows only.

        For what all processes have, and enters a loss that all compute alike.
        """
        shown = whole.detach().clone()
        shown[self.rows] = whole[self.rows]
        return shown

    def collect(self, own: Tensor) -> Tensor:
        """Gather without gradient."""
        padded = own.new_zeros(self.size, *own.shape[1:])
        padded[: len(own)] = own.detach()
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(parts, padded)
        return torch.cat(parts)[: self.total]


class _Gathered(torch.autograd.Function):
    """All rows of own ones; in the derivative the processes' gradients are added up."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: Share) -> Tensor:
        ctx.share = share
        return share.collect(own)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.share.rows], None


@dataclass(frozen=True)
class Processes:
    """The processes of a run; a single one exchanges nothing."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, total: int) -> Share | None:
        """Return this process's share of a batch of `total` pairs; None: there is but one process."""
        return Share(self.rank, self.count, total) if self.count > 1 else None

    def told(self, value: T) -> T:
        """Return what the first process has."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, asked: bool) -> bool:
        """Tell whether any process was asked."""
        if self.count == 1:
            return asked
        flag = torch.tensor([float(asked)])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def mine(self, items: Iterable[T]) -> Iterator[T]:
        """Yield every `count`-th of the items."""
        return (item for number, item in enumerate(items) if number % self.count == self.rank)

    def summed(self, values: Tensor) -> Tensor:
        """Add up all processes' tensors of one shape, in place; the same bits everywhere. Where each element is zero
        in all processes but one this puts parts together, exactly."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up all processes' gradients of their copies of a network, in one message."""
        if self.count == 1:
            return
        mine = list(parameters)
        flat = torch.cat([(p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten()) for p in mine])
        is_there = torch.tensor([float(p.grad is not None) for p in mine], device=flat.device)
        dist.all_reduce(flat)
        dist.all_reduce(is_there, op=dist.ReduceOp.MAX)
        parts = flat.split([p.numel() for p in mine])
        for parameter, part, has_gradient in zip(mine, parts, is_there.tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if has_gradient else None


ALONE = Processes()


def asked_for() -> Processes:
    """Return who this process is by torchrun's environment; outside of torchrun the only one."""
    return Processes(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def own_device(gpu: str) -> torch.device:
    """Return the device of this process for `--gpu`: of several processes on GPUs each has its own, counted from
    `--gpu`, and makes it the current one, since what torch allocates without naming a device would go to the first.

    Raises:
        InputError: there is no such GPU.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = choose_device(str(int(gpu) + local) if gpu.isdigit() and torch.cuda.is_available() else gpu)
    if device.type == "cuda" and asked_for().count > 1:
        torch.cuda.set_device(device)
    return device


@contextmanager
def started() -> Iterator[Processes]:
    """Join the other processes that torchrun has started, if it did, and leave them at the end of the block.

    Raises:
        ProcessError: an `InputError` of the block, with the number of this process; or the others are gone.
    """
    processes = asked_for()
    if processes.count == 1:
        yield processes
        return
    who = f"process {processes.rank + 1} of {processes.count}"
    joins = not dist.is_initialized()
    try:
        if joins:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        yield processes
    except InputError as error:
        raise ProcessError(f"{who}: {error}") from None
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise ProcessError(f"{who}: the connection to the others broke; one of them has ended, and says why") from None
    finally:
        if joins and dist.is_initialized():
            dist.destroy_process_group()
