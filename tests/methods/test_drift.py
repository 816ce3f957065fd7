"""MGCS's drift: neighbours, alignment factors, dynamic regularisation and division signal, against their slow twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.blocks.method import Bank, Scored
from methods.mgcs import MGCS, MGCSConfig, alignment_factors, dynamic_regularisation, inherent_drift
from runtime.errors import InputError
from tests import reference
from tests.models.networks import assert_same, make_batch, make_matcher

LENGTHS = (3, 2, 5, 3, 4, 2, 3, 6, 2, 3)
IMAGE_ID = (0, 1, 2, 0, 3, 4, 5, 1, 6, 7)


def draw(size: int, seed: int, dims: int = 6) -> Tensor:
    """Draw normal vectors (size, dims)."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(size, dims, generator=random, dtype=torch.float64).requires_grad_()


def factors_in_batch(f: Tensor, g: Tensor, image_id: Tensor, n: int, own: bool = False) -> Tensor:
    """Return factors with neighbours from the batch."""
    return alignment_factors(f, g, inherent_drift(f, image_id, f, f - g, image_id, num_neighbours=n, own=own))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_factors_in_a_batch_are_the_twins(n: int, own: bool) -> None:
    """With fewer than n neighbours, all there are."""
    f, g = draw(7, 0), draw(7, 1)
    ours = factors_in_batch(f, g, torch.arange(7), n, own)
    assert_same(ours, reference.drift_factors(f, g, n, own), [f, g], tolerance=1e-6)
    assert ours.abs().max() <= 1 and ours.std() > 0.1


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("n", [1, 4, 50])
def test_factors_from_a_bank_are_the_twins(n: int, own: bool) -> None:
    f, g, bank_f, bank_g = draw(4, 0), draw(4, 1), draw(9, 2), draw(9, 3)
    numbers, own_rows = torch.arange(100, 109), torch.tensor([102, 107, 5, 100])  # the third is not in the bank
    inherent = inherent_drift(f, own_rows, bank_f, bank_f - bank_g, numbers, num_neighbours=n, own=own)
    rows = None if own else [2, 7, -1, 0]
    twin = reference.drift_factors_bank(f, g, bank_f, bank_g, n, rows)
    assert_same(alignment_factors(f, g, inherent), twin, [f, g, bank_f, bank_g], tolerance=1e-6)


def test_other_captions_of_the_own_image_are_no_neighbours() -> None:
    f, g = draw(6, 0).detach(), draw(6, 1).detach()
    f[3] = f[0]
    image_id = torch.tensor([0, 1, 2, 0, 3, 4])
    ours = inherent_drift(f, image_id, f, f - g, image_id, num_neighbours=2)
    others = torch.tensor([1, 2, 4, 5])
    twin = inherent_drift(f, image_id, f[others], (f - g)[others], image_id[others], num_neighbours=2)
    torch.testing.assert_close(ours[[0, 3]], twin[[0, 3]])


@pytest.mark.parametrize("size", [1, 4])
def test_without_any_neighbour_nothing_is_corrected(size: int) -> None:
    """A batch that holds one image only."""
    f, g = draw(size, 0), draw(size, 1)
    factors = factors_in_batch(f, g, torch.zeros(size, dtype=torch.long), 5)
    assert torch.equal(factors, torch.ones(size, size, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(factors.sum() + f.sum(), f)
    assert torch.equal(gradient, torch.ones_like(f))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["no drift", "zero vectors", "all alike", "huge", "tiny"])
def test_factors_are_never_nan(case: str, dtype: torch.dtype) -> None:
    f, g = draw(5, 0).detach(), draw(5, 1).detach()
    if case == "no drift":
        g = f.clone()
    elif case == "zero vectors":
        f, g = torch.zeros_like(f), torch.zeros_like(g)
    elif case == "all alike":
        f, g = f[:1].expand(5, -1).clone(), g[:1].expand(5, -1).clone()
    else:
        scale = 1e6 if case == "huge" else 1e-12
        f, g = f * scale, g * scale
    f, g = f.to(dtype).requires_grad_(), g.to(dtype).requires_grad_()
    factors = factors_in_batch(f, g, torch.arange(5), 3)
    assert torch.isfinite(factors).all() and factors.abs().max() <= 1
    for gradient in torch.autograd.grad(factors.sum(), [f, g]):
        assert torch.isfinite(gradient).all()


def test_dynamic_regularisation_is_its_equation() -> None:
    """Of the twin's division signal, what is left at margin 0 of the hinge: hinge and beta out of the way."""
    f, g = draw(6, 0), draw(6, 1)
    sims = torch.rand(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    anchors = torch.tensor([4, 1])
    ones = torch.ones(6, 6, dtype=torch.float64)
    whole = reference.mgcs_division_signal(sims, f, g, anchors, beta=1.0, balance_weight=-0.03, factors=ones)
    twin = whole - reference.mean_hinge_per_pair(sims, 0.2)
    ours = dynamic_regularisation(sims, f, g, anchors, margin=0.04, balance=-0.03)
    assert_same(ours, twin, [sims, f, g], tolerance=1e-6)


def bank_of(scored: Scored) -> Bank:
    """Make a bank of other images."""
    size = scored.embeddings.image_global.shape[1]
    return Bank(draw(8, 5, size).detach(), draw(8, 6, size).detach(), torch.arange(3, 11))


@pytest.mark.parametrize("correction", ["both", "training", "division", "off"])
@pytest.mark.parametrize("neighbours", ["batch", "bank"])
def test_division_signal_is_the_twins(neighbours: str, correction: str) -> None:
    method = MGCS(
        MGCSConfig(drift_neighbours=neighbours, drift_correction=correction, drift_num_neighbours=3, drift_own=False)
    )
    matcher = make_matcher("SGR").eval()
    scored = Scored(matcher, method, make_batch(LENGTHS, image_id=IMAGE_ID))
    f, g, ids = scored.embeddings.image_global, scored.embeddings.caption_global, scored.batch.image_id
    assert method.needs_bank == (neighbours == "bank" and correction != "off")
    factors = None
    if neighbours == "bank":
        bank = bank_of(scored)
        method.remember(bank)
        rows = [i - 3 if i >= 3 else -1 for i in IMAGE_ID]
        factors = reference.drift_factors_bank(f, g, bank.image_global, bank.image_global - bank.drift, 3, rows)
    else:
        inherent = inherent_drift(f, ids, f, f - g, ids, num_neighbours=3)
        factors = alignment_factors(f, g, inherent)
    corrected = scored.sims * factors
    seen = corrected if correction in ("both", "training") else scored.sims
    torch.testing.assert_close(scored.scores, seen, rtol=1e-6, atol=1e-6)
    anchors, _ = reference.anchors(reference.ncr_prediction(seen, 0.2, ids))
    used = factors if correction in ("both", "division") else torch.ones_like(factors)
    twin = reference.mgcs_division_signal(scored.sims, f, g, anchors, factors=used, image_id=ids)
    torch.testing.assert_close(method.pair_signal(scored), twin, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(corrected, scored.sims, atol=1e-3)


def test_until_there_is_a_bank_neighbours_are_in_the_batch() -> None:
    batch, matcher = make_batch(LENGTHS), make_matcher("SGR").eval()
    one, two = (
        MGCS(MGCSConfig(drift_neighbours="bank", drift_correction="both")),
        MGCS(MGCSConfig(drift_neighbours="batch", drift_correction="both")),
    )
    first, second = Scored(matcher, one, batch), Scored(matcher, two, batch)
    assert torch.equal(first.scores, second.scores)
    one.remember(bank_of(first))
    assert not torch.allclose(Scored(matcher, one, batch).scores, second.scores)


def test_balance_is_the_published_negative_weight_unless_set() -> None:
    assert MGCSConfig().balance == pytest.approx(-0.012)
    assert MGCSConfig(drift_balance=0.5).balance == 0.5
    assert MGCSConfig(drift_balance=0.0).balance == 0.0
    assert MGCSConfig(drift_delta=0.1).balance == pytest.approx(0.2 * 0.04 * 0.5)
    with pytest.raises(InputError, match="--drift_balance"):
        MGCSConfig(margin=0.0)
    assert MGCSConfig(margin=0.0, drift_balance=0.1).balance == 0.1


@pytest.mark.parametrize("gradient", [True, False])
def test_gradient_through_the_factors_is_a_choice(gradient: bool) -> None:
    method, batch = MGCS(MGCSConfig(drift_gradient=gradient)), make_batch(LENGTHS)
    embeddings = make_matcher("SGR").embed(batch)
    assert method.factors(embeddings, batch).requires_grad == gradient
