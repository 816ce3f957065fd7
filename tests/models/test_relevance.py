"""Ground truths of many to many: hand-made cases, a perfect model, ties, the slow twin, one owner as a special case."""

from __future__ import annotations

import numpy as np
import pytest

from models import relevance as module
from models.ranks import retrieval
from models.relevance import Truth, rank_relevance, relevance_result
from runtime.errors import InputError
from tests.models.test_ranks import HAND_MADE, OWNERS


def both_ways(image: np.ndarray, caption: np.ndarray) -> Truth:
    return {"i2t": np.stack([image, caption], axis=1), "t2i": np.stack([caption, image], axis=1)}


def twin(scores: np.ndarray, pairs: set[tuple[int, int]]) -> dict[str, float]:
    """Rank query by query with Python's sort: equal scores put the irrelevant first."""
    recall: dict[int, list[float]] = {1: [], 5: [], 10: []}
    average, precision = [], []
    for query in sorted({q for q, _ in pairs}):
        wanted = {item for q, item in pairs if q == query}
        order = sorted(range(scores.shape[1]), key=lambda item: (-scores[query, item], item in wanted))
        is_hit = [item in wanted for item in order]
        for k, found in recall.items():
            found.append(float(any(is_hit[:k])))
        size = len(wanted)
        precision.append(sum(is_hit[:size]) / size)
        average.append(sum(sum(is_hit[: r + 1]) / (r + 1) for r in range(size) if is_hit[r]) / size)
    means = {f"R@{k}": 100 * float(np.mean(found)) for k, found in recall.items()}
    return means | {"mAP@R": 100 * float(np.mean(average)), "R-Precision": 100 * float(np.mean(precision))}


def figures(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name != "queries"}


def test_hand_made_case() -> None:
    """4 images x 8 captions; image 3 asks nothing."""
    truth = np.array([(0, 0), (0, 2), (0, 7), (1, 3), (2, 4), (2, 6)])
    found = rank_relevance(HAND_MADE, truth)
    # image 0: order 0 2 7 6 5 4 3 1, relevant at 1 2 3: everything right
    # image 1: order 0 5 3 ..., relevant at 3, R = 1: nothing among the first
    # image 2: 0.60 twice, both relevant, at 1 and 2: everything right
    assert found["queries"] == 3
    assert figures(found) == pytest.approx(
        {"R@1": 200 / 3, "R@5": 100, "R@10": 100, "mAP@R": 200 / 3, "R-Precision": 200 / 3}
    )
    # image 0: captions 2 and 5 at ranks 2 and 5 of R = 2: precision 1/2, average (0 + 1/2) / 2
    assert figures(rank_relevance(HAND_MADE, np.array([(0, 2), (0, 5)]))) == pytest.approx(
        {"R@1": 0, "R@5": 100, "R@10": 100, "mAP@R": 25, "R-Precision": 50}
    )
    # caption 5 fits images 1 and 2: column 0.40 0.80 0.05 0.95, ranks 2 and 4 of R = 2
    assert figures(rank_relevance(HAND_MADE.T, np.array([(5, 1), (5, 2)]))) == pytest.approx(
        {"R@1": 0, "R@5": 100, "R@10": 100, "mAP@R": 25, "R-Precision": 50}
    )


def test_a_perfect_model_has_everything() -> None:
    random = np.random.RandomState(0)
    is_relevant = random.rand(6, 9) < 0.4
    image, caption = np.nonzero(is_relevant)
    result = relevance_result(is_relevant + random.rand(6, 9) / 2, both_ways(image, caption))
    for ranks in result.values():
        assert set(figures(ranks).values()) == {100.0}
    assert result["i2t"]["queries"] == is_relevant.any(axis=1).sum()
    assert result["t2i"]["queries"] == is_relevant.any(axis=0).sum()


def test_a_collapsed_model_has_nothing() -> None:
    random = np.random.RandomState(0)
    image, caption = np.nonzero(random.rand(30, 40) < 0.1)
    result = relevance_result(np.full((30, 40), 0.5, dtype=np.float32), both_ways(image, caption))
    for ranks in result.values():
        assert set(figures(ranks).values()) == {0.0}


@pytest.mark.parametrize("block_bytes", [1, 300, 2**20])
@pytest.mark.parametrize("seed", range(6))
def test_figures_are_the_twins(seed: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of relevant items, none as well, with ties, in blocks of any height, both ways."""
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    random = np.random.RandomState(seed)
    sims = np.round(random.rand(13, 22), 1 if seed % 2 else 2)
    image, caption = np.nonzero(random.rand(13, 22) < (0.1, 0.5, 0.9)[seed % 3])
    order = random.permutation(len(image))
    twice = np.concatenate([order, order[:3]])
    result = relevance_result(sims, both_ways(image[twice], caption[twice]))
    pairs = list(zip(image.tolist(), caption.tolist(), strict=True))
    assert figures(result["i2t"]) == pytest.approx(twin(sims, set(pairs)))
    assert figures(result["t2i"]) == pytest.approx(twin(sims.T, {(c, i) for i, c in pairs}))


def test_one_owner_a_caption_gives_the_usual_recalls() -> None:
    result = relevance_result(HAND_MADE, both_ways(OWNERS, np.arange(8)))
    usual = retrieval(HAND_MADE, OWNERS)
    for way, ranks in (("i2t", usual.i2t), ("t2i", usual.t2i)):
        assert {k: result[way][f"R@{k}"] for k in ranks.recall} == ranks.recall
    assert result["t2i"]["mAP@R"] == result["t2i"]["R-Precision"] == usual.t2i.recall[1], "R is 1"


def test_directions_may_have_queries_of_their_own() -> None:
    truth = {"i2t": np.array([(0, 0)]), "t2i": np.array([(5, 3), (6, 2), (7, 0)])}
    result = relevance_result(HAND_MADE, truth)
    assert result["i2t"]["queries"] == 1 and result["t2i"]["queries"] == 3
    assert result["t2i"]["R@1"] == 100.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    sims = HAND_MADE.copy()
    sims[2, 3] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        relevance_result(sims, both_ways(OWNERS, np.arange(8)))
