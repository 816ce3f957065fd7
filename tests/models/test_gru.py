"""Our GRU against torch's own: states and every gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from models import encoders as module
from models.encoders import mirrored_positions, run_gru

LENGTHS = {
    "ragged": (7, 5, 5, 2, 1),
    "one word each": (1, 1, 1),
    "equal": (4, 4, 4),
    "batch of one": (6,),
    "one word at all": (1,),
    "long tail": (9, 1),
}


def make_gru(*, num_layers: int = 1, bidirectional: bool = True, dtype: torch.dtype = torch.float64) -> nn.GRU:
    """Build a GRU from 3 to 4 numbers."""
    torch.manual_seed(0)
    return nn.GRU(3, 4, num_layers, batch_first=True, bidirectional=bidirectional).to(dtype)


def batch_sizes_of(lengths: tuple[int, ...]) -> Tensor:
    """Count the sequences that have a k-th word."""
    return torch.tensor([sum(length > k for length in lengths) for k in range(max(lengths))])


def make_vectors(lengths: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw (N, 3)."""
    return torch.randn(sum(lengths), 3, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


def run_torch(gru: nn.GRU, vectors: Tensor, batch_sizes: Tensor) -> list[Tensor]:
    """Do what `run_gru` does with torch's own GRU."""
    states = gru(PackedSequence(vectors, batch_sizes))[0].data
    return list(states.split(gru.hidden_size, dim=1))


def outcome(run: Callable[..., list[Tensor]], gru: nn.GRU, vectors: Tensor, batch_sizes: Tensor) -> list[Tensor]:
    """Return the states and the gradients of a random combination of them, for the vectors and every parameter."""
    states = run(gru, vectors, batch_sizes)
    random = torch.Generator().manual_seed(2)
    weights = [torch.randn(s.shape, generator=random, dtype=s.dtype) for s in states]
    total = torch.stack([(s * w).sum() for s, w in zip(states, weights, strict=True)]).sum()
    return [*states, *torch.autograd.grad(total, [vectors, *gru.parameters()])]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_states_and_gradients_are_those_of_torch(
    lengths: tuple[int, ...], bidirectional: bool, num_layers: int
) -> None:
    gru = make_gru(num_layers=num_layers, bidirectional=bidirectional)
    inputs = gru, make_vectors(lengths), batch_sizes_of(lengths)
    for ours, theirs in zip(outcome(run_gru, *inputs), outcome(run_torch, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_single_precision_stays_single_and_differs_by_rounding() -> None:
    gru, lengths = make_gru(num_layers=2, dtype=torch.float32), LENGTHS["ragged"]
    inputs = gru, make_vectors(lengths, torch.float32), batch_sizes_of(lengths)
    for ours, theirs in zip(outcome(run_gru, *inputs), outcome(run_torch, *inputs), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_inputs_without_gradient_and_an_unused_direction() -> None:
    gru, lengths = make_gru(), LENGTHS["ragged"]
    vectors = make_vectors(lengths).detach()
    found = []
    for run in (run_gru, run_torch):
        forward, _ = run(gru, vectors, batch_sizes_of(lengths))
        found.append(torch.autograd.grad(forward.square().sum(), gru.parameters()))
    for (name, _), ours, theirs in zip(gru.named_parameters(), *found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        assert ours.any() != name.endswith("_reverse")


def test_a_second_derivative_and_weights_changed_meanwhile_are_refused() -> None:
    gru, lengths = make_gru(), LENGTHS["ragged"]
    vectors, batch_sizes = make_vectors(lengths), batch_sizes_of(lengths)
    total = torch.cat(run_gru(gru, vectors, batch_sizes)).square().sum()
    (gradient,) = torch.autograd.grad(total, vectors, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    total = torch.cat(run_gru(gru, vectors, batch_sizes)).square().sum()
    with torch.no_grad():
        gru.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the ways that were gone."""
    names: list[str] = []
    torchs_own, ours = nn.GRU.forward, module._Layer.apply

    def call_torchs_own(self: nn.GRU, *values: Any) -> Any:
        names.append("torch")
        return torchs_own(self, *values)

    def call_ours(*values: Any) -> Any:
        names.append("ours")
        return ours(*values)

    monkeypatch.setattr(nn.GRU, "forward", call_torchs_own)
    monkeypatch.setattr(module._Layer, "apply", call_ours)
    return names


@pytest.mark.parametrize("bidirectional", [True, False])
def test_which_way_is_gone(used: list[str], bidirectional: bool) -> None:
    gru, lengths = make_gru(num_layers=2, bidirectional=bidirectional), LENGTHS["ragged"]
    vectors, batch_sizes = make_vectors(lengths), batch_sizes_of(lengths)
    with_gradient = run_gru(gru, vectors, batch_sizes)
    assert used == ["ours", "ours"]  # one a layer
    with torch.no_grad():
        without = run_gru(gru, vectors, batch_sizes)
    assert used[2:] == ["torch"]
    for ours, theirs in zip(with_gradient, without, strict=True):
        assert ours.requires_grad and not theirs.requires_grad
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-10, atol=1e-12)
    gru.requires_grad_(False)
    run_gru(gru, vectors, batch_sizes)
    assert used[3:] == ["ours", "ours"]
    run_gru(gru, vectors.detach(), batch_sizes)
    assert used[5:] == ["torch"]


def test_other_devices_use_torchs_own(used: list[str]) -> None:
    """The meta device stands for them: shapes only."""
    gru, lengths = make_gru(), LENGTHS["ragged"]
    states = run_gru(gru.to("meta"), make_vectors(lengths).to("meta"), batch_sizes_of(lengths))
    assert used == ["torch"]
    assert [s.shape for s in states] == [(20, 4), (20, 4)] and all(s.requires_grad for s in states)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_the_cpu(used: list[str]) -> None:
    gru, lengths = make_gru(num_layers=2), LENGTHS["ragged"]
    vectors, batch_sizes = make_vectors(lengths), batch_sizes_of(lengths)
    ours = outcome(run_gru, gru, vectors, batch_sizes)
    moved = outcome(run_gru, gru.to("cuda"), vectors.detach().to("cuda").requires_grad_(), batch_sizes)
    assert used == ["ours", "ours", "torch"]
    for a, b in zip(ours, moved, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_mirrored_positions_are_their_twin(lengths: tuple[int, ...]) -> None:
    places = [(k, b) for k in range(max(lengths)) for b in range(len(lengths)) if k < lengths[b]]
    twin = [places.index((lengths[b] - 1 - k, b)) for k, b in places]
    found = mirrored_positions(batch_sizes_of(lengths))
    assert found.tolist() == twin
    assert found[found].tolist() == list(range(sum(lengths)))
