"""Agreement of a pair's neighbourhood against loops, and that no pair is a witness to itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.blocks import consensus
from methods.blocks.consensus import (
    CAPTIONS_HEARD,
    NOTHING,
    SIGNALS,
    Agreement,
    PairBank,
    captions_given,
    same,
)


def make_bank(images: int = 7, captions: int = 18, size: int = 5, *, seed: int = 0, copies: bool = False) -> PairBank:
    """Draw a bank; with `copies`, image 1 is the same picture as image 0, and nearest to it.

    Its vector differs a little: of two equal ones, rounding would choose which is the nearer to a third.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    x = draw(images, size)
    picture = torch.arange(images)
    if copies:
        x[1], picture[1] = x[0] + 0.01 * x[1], 0
    given = torch.randint(images, (captions,), generator=random)
    return PairBank(x, draw(captions, size), draw(size).abs(), draw(images), draw(captions), given, picture)


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


def score(bank: PairBank, v: int, c: int) -> float:
    total = sum(float(s * a * b) for s, a, b in zip(bank.slope, bank.images[v], bank.captions[c], strict=True))
    return total + float(bank.image_part[v]) + float(bank.caption_part[c])


def best(values: list[float], votes: int) -> float:
    top = sorted(values, reverse=True)[:votes]
    return sum(top) / len(top) if top else NOTHING


def twin(bank: PairBank, v: int, c: int, count: int, votes: int) -> dict[str, float]:
    """Return the four signals of one pair; NaN where a mean has nothing to be taken of."""
    same_picture = bank.picture.tolist()
    given = bank.image_of_pair.tolist()
    others = [u for u in range(len(bank.images)) if same_picture[u] != same_picture[v]]
    near = sorted(others, key=lambda u: -cosine(bank.images[v], bank.images[u]))[:count]
    elsewhere = [j for j in range(len(given)) if same_picture[given[j]] != same_picture[given[c]]]
    read = sorted(elsewhere, key=lambda j: -cosine(bank.captions[c], bank.captions[j]))[:count]
    read = [j for j in read if same_picture[given[j]] != same_picture[v]]
    heard = [j for u in near for j in [k for k in range(len(given)) if given[k] == u][:CAPTIONS_HEARD] if j != c]
    with_images = [score(bank, u, c) for u in near]
    with_captions = [score(bank, v, j) for j in read]
    return {
        "captions_near": best([cosine(bank.captions[c], bank.captions[j]) for j in heard], votes),
        "images_near": sum(with_images) / len(with_images) if with_images else math.nan,
        "images_read": best([cosine(bank.images[v], bank.images[given[j]]) for j in read], votes),
        "captions_read": sum(with_captions) / len(with_captions) if with_captions else math.nan,
    }


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize(("count", "votes"), [(1, 1), (3, 2), (30, 2), (3, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_signals_are_the_twins(
    seed: int, count: int, votes: int, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consensus, "HELD", 200)  # a few pairs at a time
    bank = make_bank(seed=seed, copies=copies)
    random = np.random.RandomState(seed)
    image = torch.cat([bank.image_of_pair, torch.from_numpy(random.randint(0, 7, 10))])
    caption = torch.cat([torch.arange(18), torch.from_numpy(random.randint(0, 18, 10))])
    found = Agreement(bank, count=count, votes=votes).signals(image, caption)
    assert tuple(found) == SIGNALS
    expected = [twin(bank, v, c, count, votes) for v, c in zip(image.tolist(), caption.tolist(), strict=True)]
    for name, values in found.items():
        column = np.array([row[name] for row in expected])
        column[np.isnan(column)] = np.nanmin(column) if not np.isnan(column).all() else 0.0
        assert values.tolist() == pytest.approx(column.tolist(), abs=1e-5), name


def test_a_pair_is_no_witness_to_itself() -> None:
    """A copy of a wrong pair, same picture and same words under other numbers, would vouch for it."""
    plain = make_bank(copies=False)
    doubled = make_bank(copies=True)
    one = int(torch.nonzero(doubled.image_of_pair == 0)[0])
    other = int(torch.nonzero(doubled.image_of_pair == 1)[0])
    for bank, expects_copy in ((plain, True), (doubled, False)):
        captions = bank.captions.clone()
        captions[other] = captions[one]
        images = bank.images.clone()
        images[1] = images[0]
        copied = PairBank(images, captions, *list(vars(bank).values())[2:])
        signal = Agreement(copied, count=3).signals(torch.tensor([0]), torch.tensor([one]))["captions_near"]
        alone = Agreement(copied, count=3, votes=1).signals(torch.tensor([0]), torch.tensor([one]))["captions_near"]
        assert (float(alone) > 0.999) == expects_copy and float(signal) <= float(alone)


def test_neighbours_can_be_looked_for_elsewhere() -> None:
    """In raw features image 0 lies by image 3, whatever the network makes of them."""
    bank = make_bank()
    space = torch.randn(7, 9, generator=torch.Generator().manual_seed(1))
    space[3] = space[0] + 0.01
    around = Agreement(bank, count=1, space=space)
    assert int(around._near[0, 0]) == 3


@pytest.mark.parametrize("which", ["images", "captions", "both"])
def test_equal_vectors_give_finite_signals(which: str) -> None:
    bank = make_bank()
    for name in ("images", "captions") if which == "both" else (which,):
        getattr(bank, name)[:] = 1.0
    found = Agreement(bank, count=10).signals(bank.image_of_pair, torch.arange(18))
    assert all(torch.isfinite(values).all() for values in found.values())


def test_one_image_and_one_pair_have_no_neighbours() -> None:
    for captions in (1, 5):
        around = Agreement(make_bank(1, captions), count=10)
        found = around.signals(torch.zeros(captions, dtype=torch.long), torch.arange(captions))
        assert around.fewest == 0
        assert found["captions_near"].tolist() == [NOTHING] * captions
        assert all(torch.isfinite(values).all() for values in found.values())


def test_captions_given_to_each_image() -> None:
    """Images 0 .. 3; image 1 has none, image 2 more than are heard."""
    given = torch.tensor([2] * (CAPTIONS_HEARD + 2) + [0, 3, 0])
    found = captions_given(given, 4)
    first = CAPTIONS_HEARD + 2
    assert found.shape == (4, CAPTIONS_HEARD)
    assert found[0].tolist() == [first, first + 2] + [-1] * (CAPTIONS_HEARD - 2)
    assert (found[1] == -1).all()
    assert found[2].tolist() == list(range(CAPTIONS_HEARD))
    assert found[3, 0] == first + 1


def test_equal_rows_get_equal_numbers() -> None:
    rows = np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0], [0.0, 0.0]], dtype=np.float32)
    numbers = same(rows)
    assert numbers[0] == numbers[2] and len(set(numbers.tolist())) == 3
    assert len(set(same(rows + np.arange(4, dtype=np.float32)[:, None] * 1e-6).tolist())) == 4
