"""New partners: who is offered, how credible an offer is, and that nothing is offered where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.blocks import rematch
from methods.blocks.consensus import CAPTIONS_HEARD, NOTHING, PairBank
from methods.blocks.rematch import LENT, MIN_CONFIDENCE, NEIGHBOURS, Offers, joint_offers, make_offers
from tests.methods.test_agreement import best, cosine, make_bank, score


def concepts_bank(
    *, themes: int = 6, images: int = 5, captions: int = 3, noise: float = 0.4, seed: int = 0
) -> PairBank:
    """Draw images and captions of a few themes in one space; every fourth caption is given to an image of another."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(themes, 12, generator=random)
    theme_of_image = torch.arange(themes * images) % themes
    written_for = torch.arange(themes * images).repeat_interleave(captions)
    given = written_for.clone()
    wrong = torch.arange(0, len(given), 4)
    given[wrong] = (written_for[wrong] + 1) % len(theme_of_image)

    def near(theme: Tensor) -> Tensor:
        drawn = centres[theme] + noise * torch.randn(len(theme), 12, generator=random)
        return torch.nn.functional.normalize(drawn, dim=1)

    x, y = near(theme_of_image), near(theme_of_image[written_for])
    parts = torch.zeros(len(x)), torch.zeros(len(y))
    return PairBank(x, y, torch.ones(12), *parts, given, torch.arange(len(x)))


THEMES = 6


def is_right(offers: Offers) -> np.ndarray:
    """Tell which offers join a caption with an image of its theme."""
    return (offers.caption // 3) % THEMES == offers.image % THEMES


def agreement_twin(bank: PairBank, trusted: np.ndarray, v: int, c: int) -> float:
    """Return the best cosine of c with trusted captions of v, and with LENT of each of its nearest images."""
    given = bank.image_of_pair.tolist()

    def captions_of(u: int) -> list[int]:
        return [j for j in range(len(given)) if given[j] == u and trusted[j]][:CAPTIONS_HEARD]

    near = sorted((u for u in range(len(bank.images)) if u != v), key=lambda u: -cosine(bank.images[v], bank.images[u]))
    heard = captions_of(v) + [j for u in near[:NEIGHBOURS] for j in captions_of(u)[:LENT]]
    return best([cosine(bank.captions[c], bank.captions[j]) for j in heard if j != c], 1)


@pytest.mark.parametrize("seed", range(3))
def test_offers_are_the_twins(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rematch, "HELD", 40)  # a few rows at a time
    bank = make_bank(9, 25, seed=seed)
    trusted = np.random.RandomState(seed).rand(25) < 0.6
    found = make_offers(bank, trusted)
    given = bank.image_of_pair.tolist()
    expected = []
    for c in np.flatnonzero(~trusted).tolist():
        expected.append((c, max(range(9), key=lambda v: score(bank, v, c))))
    for v in range(9):
        if not any(given[j] == v and trusted[j] for j in range(25)):
            expected.append((max(range(25), key=lambda c: score(bank, v, c)), v))
    assert list(zip(found.caption.tolist(), found.image.tolist(), strict=True)) == expected
    usual = [agreement_twin(bank, trusted, given[j], j) for j in range(25) if trusted[j]]
    for (c, v), confidence in zip(expected, found.confidence.tolist(), strict=True):
        own = agreement_twin(bank, trusted, v, c)
        lower, equal = (sum(u < own - 1e-6 for u in usual), sum(abs(u - own) <= 1e-6 for u in usual))
        assert confidence == pytest.approx((lower + equal / 2) / len(usual))


def test_credible_offers_are_right() -> None:
    bank = concepts_bank(noise=1.0, images=20)
    trusted = (np.arange(len(bank.captions)) % 4) > 0
    offers = make_offers(bank, trusted)
    credible = offers.confidence > MIN_CONFIDENCE
    assert credible.sum() > 5 and (~is_right(offers)).sum() > 3
    assert is_right(offers)[credible].mean() > 0.95
    assert offers.confidence[is_right(offers)].mean() > 2 * offers.confidence[~is_right(offers)].mean()


def test_without_a_trusted_pair_nothing_is_offered() -> None:
    bank = make_bank()
    assert len(make_offers(bank, np.zeros(18, dtype=bool))) == 0


@pytest.mark.parametrize("which", ["images", "captions", "both"])
def test_equal_vectors_give_finite_confidences(which: str) -> None:
    bank = make_bank()
    for name in ("images", "captions") if which == "both" else (which,):
        getattr(bank, name)[:] = 1.0
    offers = make_offers(bank, np.arange(18) % 3 > 0)
    assert np.isfinite(offers.confidence).all() and (offers.confidence >= 0).all() and (offers.confidence <= 1).all()
    if which != "images":  # all captions agree with all, as trusted pairs do: nothing speaks for an offer
        assert (offers.confidence <= MIN_CONFIDENCE).all()


def test_an_offer_that_nobody_speaks_for_is_not_credible() -> None:
    """One image, one trusted caption: it has no witness but itself, so that an agreement of NOTHING is usual."""
    bank = make_bank(1, 2)
    offers = make_offers(bank, np.array([True, False]))
    assert NOTHING == -1.0 and offers.caption.tolist() == [1] and offers.confidence.tolist() == [1.0]
    assert len(joint_offers([offers], np.array([True, False]), bank.image_of_pair.numpy())) == 1


def offers_of(*rows: tuple[int, int, float]) -> Offers:
    caption, image, confidence = zip(*rows, strict=True) if rows else ((), (), ())
    return Offers(np.array(caption, dtype=np.int64), np.array(image, dtype=np.int64), np.array(confidence))


def test_both_networks_must_make_an_offer() -> None:
    """Caption 1: both, caption 2: one is sure, the other offers another image; caption 3 is clean where it is."""
    a = offers_of((1, 4, 0.9), (2, 5, 1.0), (3, 6, 1.0))
    b = offers_of((1, 4, 0.5), (2, 6, 1.0), (3, 6, 1.0))
    given = np.array([0, 1, 2, 6])
    found = joint_offers([a, b], np.array([True, False, False, True]), given)
    assert (found.caption.tolist(), found.image.tolist()) == ([1], [4])
    assert found.confidence.tolist() == pytest.approx([0.7])
    alone = joint_offers([a], np.array([True, False, False, True]), given)
    assert alone.caption.tolist() == [1, 2]


def test_joint_offers_of_nothing_and_their_state() -> None:
    none = joint_offers([offers_of(), offers_of()], np.array([True]), np.array([0]))
    assert len(none) == 0
    some = offers_of((1, 4, 0.9), (2, 5, 1.0))
    back = Offers.from_state(some.as_state())
    assert all(np.array_equal(getattr(back, name), values) for name, values in vars(some).items())


def test_a_clean_caption_is_offered_only_to_an_image_without_one() -> None:
    """Captions 0 and 1 are clean in images 0 and 1; image 1 has a clean caption already, image 5 has none."""
    offers = offers_of((0, 1, 0.9), (0, 5, 0.9), (2, 1, 0.9))
    found = joint_offers([offers], np.array([True, True, False]), np.array([0, 1, 2]))
    assert list(zip(found.caption.tolist(), found.image.tolist(), strict=True)) == [(0, 5), (2, 1)]
