"""Ranks and better partners against a slow twin, by tiles and by lists."""

from __future__ import annotations

import numpy as np
import pytest

from tools.audit.partners import NOBODY, Partners, Rivalry, Standing, Tile, find_partners, listed_tiles, shortlist


def twin(scores: np.ndarray, rivalry: Rivalry, listed: np.ndarray | None = None) -> Partners:
    """Rank one pair after the other; scores (I, N), of which only those in `listed` (I, N) bool are known."""
    num_images, num_pairs = scores.shape
    known = np.ones(scores.shape, dtype=bool) if listed is None else listed
    i2t, t2i = [], []
    for k in range(num_pairs):
        image, own = int(rivalry.image_of_pair[k]), rivalry.own[k]
        captions = [
            (scores[image, j], j)
            for j in range(num_pairs)
            if known[image, j]
            and rivalry.image_group[rivalry.image_of_pair[j]] != rivalry.image_group[image]
            and rivalry.text_group[j] != rivalry.text_group[k]
        ]
        images = [
            (scores[i, k], i)
            for i in range(num_images)
            if known[i, k] and rivalry.image_group[i] != rivalry.image_group[image]
        ]
        for found, others in ((i2t, captions), (t2i, images)):
            best = max(others, key=lambda pair: (pair[0], -pair[1]), default=(-np.inf, NOBODY))
            is_better = best[0] > own
            rank = 1 + sum(score >= own for score, _ in others)
            found.append((rank, best[1] if is_better else NOBODY, best[0] if is_better else np.nan))
    return Partners(*(Standing(*(np.array(column) for column in zip(*found, strict=True))) for found in (i2t, t2i)))


def case(seed: int, *, images: int = 7, pairs: int = 17) -> tuple[np.ndarray, Rivalry]:
    """Draw scores with many ties, pairs of images with none to several captions, and groups."""
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, (images, pairs)).astype(np.float32) / 8
    image_of_pair = random.integers(0, images, pairs)
    rivalry = Rivalry(
        image_of_pair,
        scores[image_of_pair, np.arange(pairs)],
        random.integers(0, pairs - 4, pairs),
        random.integers(0, images - 2, images),
    )
    return scores, rivalry


def tiles(scores: np.ndarray, seed: int) -> list[Tile]:
    """Cut scores into tiles whose rows and columns are in any order."""
    random = np.random.default_rng(seed)
    rows, columns = (np.array_split(random.permutation(n), 3) for n in scores.shape)
    return [(r, c, scores[np.ix_(r, c)]) for r in rows for c in columns]


def assert_same(ours: Partners, theirs: Partners) -> None:
    for name in ("i2t", "t2i"):
        mine, twins = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_array_equal(mine.rank, twins.rank, err_msg=name)
        np.testing.assert_array_equal(mine.better, twins.better, err_msg=name)
        np.testing.assert_array_equal(mine.better_score, twins.better_score, err_msg=name)


@pytest.mark.parametrize("seed", range(8))
def test_tiles_as_the_twin(seed: int) -> None:
    scores, rivalry = case(seed)
    assert_same(find_partners(tiles(scores, seed), rivalry), twin(scores, rivalry))


@pytest.mark.parametrize("seed", range(8))
def test_a_list_as_the_twin(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.audit.partners.IMAGES_AT_ONCE", 3)
    monkeypatch.setattr("tools.audit.partners.CAPTIONS_AT_ONCE", 4)
    scores, rivalry = case(seed)
    listed = np.random.default_rng(seed + 100).random(scores.shape) < 0.4
    image, caption = np.nonzero(listed)
    shuffled = np.random.default_rng(seed).permutation(len(image))
    image, caption = image[shuffled], caption[shuffled]
    ours = find_partners(listed_tiles(image, caption, scores[image, caption], scores.shape), rivalry)
    assert_same(ours, twin(scores, rivalry, listed))


def test_an_example_by_hand() -> None:
    """Three images; caption 1 belongs better to image 2, and image 0 to caption 2."""
    scores = np.array([[0.5, 0.1, 0.6], [0.2, 0.3, 0.1], [0.1, 0.9, 0.8]])
    rivalry = Rivalry(np.arange(3), scores.diagonal(), np.arange(3), np.arange(3))
    found = find_partners([(np.arange(3), np.arange(3), scores)], rivalry)
    assert found.i2t.rank.tolist() == [2, 1, 2] and found.t2i.rank.tolist() == [1, 2, 1]
    assert found.i2t.better.tolist() == [2, NOBODY, 1] and found.t2i.better.tolist() == [NOBODY, 2, NOBODY]
    assert found.t2i.better_score[1] == 0.9


@pytest.mark.parametrize("size", [1, 2, 50])
def test_the_shortlist_as_its_twin(size: int) -> None:
    scores = np.random.default_rng(1).permutation(7 * 17).reshape(7, 17).astype(np.float32)
    wanted = set()
    for i in range(7):
        wanted |= {(i, int(j)) for j in np.argsort(-scores[i])[:size]}
    for j in range(17):
        wanted |= {(int(i), j) for i in np.argsort(-scores[:, j])[:size]}
    image, caption = shortlist(tiles(scores, 2), scores.shape, size)
    assert sorted(zip(image.tolist(), caption.tolist(), strict=True)) == sorted(wanted)
