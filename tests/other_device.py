"""A second device where there is none: tensors on it hold their numbers on the CPU, and refuse to meet CPU tensors.

It tells which device a tensor is on as CUDA would, not how fast or how exact that device is. As on CUDA, numbers (0
dimensions) and indices may come from the CPU, copies go either way, and `numpy()` is refused.

    with other_device() as device:
        torch.zeros(3, device=device) + torch.zeros(3)      # RuntimeError
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
"""Its label: of the devices that torch knows everywhere the one that the suite does not use."""

COPIES = ("aten::copy_", "aten::_to_copy")
INDEXING = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")


class Far(Tensor):
    """A tensor of the other device."""

    near: Tensor
    is_cuda = True  # type: ignore[assignment]  # what is written for CUDA is what is run

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=DEVICE,
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Copy to the CPU first, as CUDA does."""
        return self.near.detach().tolist()


class _Everywhere(TorchDispatchMode):
    """New tensors too go where they are asked to."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute on the CPU what is asked of either device; refuse what mixes them."""
    name, tensors = func._schema.name, [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    asked, is_far = kwargs.get("device"), any(isinstance(tensor, Far) for tensor in tensors)
    goes_far = is_far if asked is None else torch.device(asked) == DEVICE
    if not is_far and not goes_far:
        return func(*args, **kwargs)
    if is_far and name not in COPIES:
        met = [args[0], *args[2:]] if name in INDEXING else tensors
        if any(isinstance(t, Tensor) and t.dim() and not isinstance(t, Far) for t in met):
            raise RuntimeError(f"Expected all tensors to be on the same device: {name}")
    near_args, near_kwargs = tree_map_only(Far, lambda tensor: tensor.near, (args, kwargs))
    if asked is not None:
        near_kwargs["device"] = torch.device("cpu")
    found = func(*near_args, **near_kwargs)
    if name == "aten::copy_":
        return args[0]
    if not goes_far:
        return found
    found = tree_map_only(Tensor, Far, found)
    return found if name == "aten::_to_copy" or not is_far else return_and_correct_aliasing(func, args, kwargs, found)


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Yield the device; it is there inside the block."""
    make, cast = torch.tensor, torch.autocast

    def tensor(*values: Any, device: Any = None, **how: Any) -> Tensor:
        made = make(*values, **how)
        return made if device is None else made.to(device)

    with pytest.MonkeyPatch.context() as patch, _Everywhere():
        patch.setattr(torch, "tensor", tensor)  # would make it on torch's own `meta`, without numbers
        patch.setattr(torch, "autocast", lambda kind, *given, **how: cast("cpu", *given, **how))
        yield DEVICE
