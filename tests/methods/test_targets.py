"""NCR's prediction, BiCro's trusted pairs and labels, against their slow twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.bicro import BiCro, BiCroConfig, most_trusted, similarity_consistency
from methods.blocks.method import MethodConfig, Scored, StudentAndPeer
from methods.mgcs import MGCS
from methods.ncr import NCR, predicted_correspondence
from models.losses import pair_costs
from tests import reference
from tests.models.networks import make_batch, make_matcher

LENGTHS = (3, 2, 5, 3, 4, 2, 3, 6, 2, 3, 4, 5)
IMAGE_ID = (0, 1, 2, 0, 3, 4, 5, 1, 6, 7, 8, 0)


def draw(*shape: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    """Draw normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def views(method: BiCro | NCR, seed: int = 1, names: tuple[str, str] = ("SGR", "SGR")) -> StudentAndPeer:
    """Let two different networks see one batch."""
    batch = make_batch(LENGTHS, image_id=IMAGE_ID, seed=seed)
    return StudentAndPeer(*(Scored(make_matcher(n, seed=k).eval(), method, batch) for k, n in enumerate(names)))


@pytest.mark.parametrize("size", [1, 2, 9, 10, 25])
@pytest.mark.parametrize("masked", [False, True])
def test_prediction_is_its_twin(size: int, masked: bool) -> None:
    scores = torch.sigmoid(draw(size, size, seed=size)) + 0.3 * torch.eye(size)
    image_id = torch.arange(size) // 2 if masked else None
    ours = predicted_correspondence(pair_costs(scores, 0.2, image_id), 0.2)
    torch.testing.assert_close(ours, reference.ncr_prediction(scores, 0.2, image_id))
    assert ours.shape == (size,) and (ours >= 0).all() and (ours <= 1).all()
    assert size < 9 or (ours.unique().numel() > 3 and ours.min() < 0.9)


@pytest.mark.parametrize("size", [1, 12, 24])
def test_trusted_pairs_are_the_twins(size: int) -> None:
    p = torch.rand(size, generator=torch.Generator().manual_seed(0))
    ties = (p * 4).round() / 4
    for values in (p, ties, torch.ones(size)):
        assert most_trusted(values).tolist() == reference.anchors(values)[0].tolist()


@pytest.mark.parametrize("shift", [0.0, 4.0], ids=["some cosines below zero", "none"])
def test_consistency_is_its_twin(shift: float) -> None:
    f, g = draw(20, 6, seed=1, shift=shift), draw(20, 6, seed=2, shift=shift)
    ours = similarity_consistency(f, g, f[3:6], g[3:6])
    torch.testing.assert_close(ours, reference.bicro_soft_labels(f, g, f[3:6], g[3:6]), rtol=1e-6, atol=1e-6)
    assert (ours >= 0).all() and (ours <= 1).all()
    assert bool((ours == 0).any()) == (shift == 0)


@pytest.mark.parametrize(
    ("image", "caption", "expected"),
    [
        ((1.0, 0.0), (1.0, 0.0), 1.0),
        ((0.6, 0.8), (1.0, 0.0), 0.6),
        ((1.0, 0.0), (0.6, 0.8), 0.6),
        ((0.0, 1.0), (1.0, 0.0), 0.0),  # cosine 0
        ((-1.0, 0.0), (1.0, 0.0), 0.0),  # one cosine below 0
        ((-1.0, 0.0), (-1.0, 0.0), 0.0),  # both: their ratio is 1, and means nothing
        ((0.0, 0.0), (1.0, 0.0), 0.0),  # a zero vector
    ],
)
def test_ratio_of_cosines_by_hand(image: tuple[float, float], caption: tuple[float, float], expected: float) -> None:
    anchor = torch.tensor([[1.0, 0.0]])
    label = similarity_consistency(torch.tensor([image]), torch.tensor([caption]), anchor, anchor)
    assert label.tolist() == [pytest.approx(expected, abs=1e-6)]


@pytest.mark.parametrize("noise_train", ["train", "noise_soft", "noise_hard"])
@pytest.mark.parametrize("kind", [BiCro, MGCS])
def test_labels_of_both_sides_are_the_twins(kind: type[BiCro], noise_train: str) -> None:
    plain = kind(kind.Config(noise_train="train"))
    clean, noisy = views(plain), views(plain, seed=7)
    everything = plain.refine(clean, noisy, torch.ones(len(LENGTHS))).noisy
    assert everything is not None
    tem = float(everything.sort().values[5])  # splits the batch, with equality for one pair
    method = kind(kind.Config(noise_train=noise_train, noise_tem=tem))
    labels = method.refine(clean, noisy, torch.ones(len(LENGTHS)))

    peer, other = clean.peer, noisy.peer
    ids = peer.batch.image_id
    anchors, _ = reference.anchors(reference.ncr_prediction(peer.scores, 0.2, ids))
    f, g = peer.embeddings.image_global, peer.embeddings.caption_global
    if kind is BiCro:
        torch.testing.assert_close(labels.clean, reference.bicro_clean_labels(f, g, anchors))
    else:
        assert labels.clean.tolist() == [1.0] * len(LENGTHS)
    twin = reference.bicro_noisy_labels(
        other.embeddings.image_global, other.embeddings.caption_global, f[anchors], g[anchors], noise_train, tem
    )
    assert labels.noisy is not None and labels.noisy_kept is not None
    torch.testing.assert_close(labels.noisy, twin)
    low = everything <= tem
    assert 0 < low.sum() < len(low)
    assert labels.noisy_kept.tolist() == ((~low).tolist() if noise_train == "noise_hard" else [True] * len(low))
    assert bool((labels.noisy[low] == 0).all()) == (noise_train == "noise_soft")


def test_bicro_asks_the_peer_alone_and_ncr_both() -> None:
    bicro, ncr = BiCro(BiCroConfig()), NCR(MethodConfig())
    chance = torch.full((len(LENGTHS),), 0.3, dtype=torch.float64)
    for method, sees_student in ((bicro, False), (ncr, True)):
        one, two = views(method), views(method, names=("VSE", "SGR"))  # another student
        noisy_one, noisy_two = views(method, seed=7), views(method, seed=7, names=("VSE", "SGR"))
        first, second = method.refine(one, noisy_one, chance), method.refine(two, noisy_two, chance)
        assert first.noisy is not None and second.noisy is not None
        assert torch.equal(first.clean, second.clean) != sees_student
        assert torch.equal(first.noisy, second.noisy) != sees_student


def test_ncr_labels_are_the_twins() -> None:
    method = NCR(MethodConfig())
    clean, noisy = views(method), views(method, seed=7)
    chance = torch.rand(len(LENGTHS), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = method.refine(clean, noisy, chance)

    def predicted(scored: Scored) -> Tensor:
        return reference.ncr_prediction(scored.scores, 0.2, scored.batch.image_id)

    assert labels.noisy is not None
    torch.testing.assert_close(labels.clean, chance + (1 - chance) * predicted(clean.student))
    torch.testing.assert_close(labels.noisy, (predicted(noisy.student) + predicted(noisy.peer)) / 2)
    assert not torch.allclose(predicted(noisy.student), predicted(noisy.peer))


def test_labels_belong_to_their_own_pairs() -> None:
    """Shuffling the clean batch shuffles its labels: the published code puts them on the wrong pairs."""
    method = BiCro(BiCroConfig())
    scored = views(method).peer
    anchors = torch.tensor([3, 7])
    labels = method.clean_labels(scored, anchors)
    order = torch.tensor([5, 3, 0, 7, 1, 2, 4, 6, 11, 9, 10, 8])
    batch = scored.batch
    shuffled = batch.part(order)
    again = method.clean_labels(Scored(make_matcher("SGR", seed=1).eval(), method, shuffled), torch.tensor([1, 3]))
    torch.testing.assert_close(again, labels[order])
    assert labels[anchors].tolist() == [1.0, 1.0] and labels.unique().numel() > 5
