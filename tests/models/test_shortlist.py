"""The shortlist: chosen pairs against all pairs, the best of both directions, what ranks behind, several networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data_utils.precomputed import PrecomputedSplit
from models import encoded_split, shortlist
from models.encoded_split import EncodedSplit, encode_split, similarities
from models.shortlist import best_pairs, estimated_scores, put_first, score_chosen, shortlisted_similarities
from models.similarity import EncodedCaptions, EncodedImages, Similarity
from runtime.errors import InputError
from runtime.seed import generator
from tests.models.splits import small_matcher, small_split

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> PrecomputedSplit:
    """12 images x 60 captions."""
    return small_split(tmp_path_factory.mktemp("split"), images=12)


def slow_best(scores: Tensor, size: int) -> set[tuple[int, int]]:
    """Return the pairs by sorting one row and one column after the other."""
    rows, columns = scores.shape
    found = set()
    for i in range(rows):
        found |= {(i, j) for j in sorted(range(columns), key=lambda j: -float(scores[i, j]))[:size]}
    for j in range(columns):
        found |= {(i, j) for i in sorted(range(rows), key=lambda i: -float(scores[i, j]))[:size]}
    return found


@pytest.mark.parametrize("size", [1, 3, 7, 20, 100])
def test_the_best_of_both_directions(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "BLOCK", 4)
    scores = torch.rand(7, 20, generator=torch.Generator().manual_seed(size))
    chosen = {(int(i), int(j)) for i, j in best_pairs(scores, size).nonzero()}
    assert chosen == slow_best(scores, size)
    assert best_pairs(scores.t().contiguous(), size).t().equal(best_pairs(scores, size)), "both directions are alike"


def test_ties_with_the_last_are_in() -> None:
    """Row 0 is nobody's best: what is listed there is its own two best and what ties with the second."""
    scores = torch.tensor([[0.3, 0.2, 0.2 - 1e-6, 0.2, 0.1], [0.5, 0.6, 0.7, 0.8, 0.9], [0.9, 0.8, 0.7, 0.6, 0.5]])
    assert best_pairs(scores, 2)[0].tolist() == [True, True, True, True, False]
    assert best_pairs(scores.t().contiguous(), 2)[:, 0].tolist() == [True, True, True, True, False]


def test_listed_pairs_rank_first_and_the_others_by_the_estimate() -> None:
    estimates = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.7, 0.6]])
    is_listed = torch.tensor([[True, False, False], [False, True, True]])
    ranked = put_first(estimates, is_listed, torch.tensor([0.01, 0.5, 0.4]))
    assert ranked[is_listed].tolist() == pytest.approx([0.01, 0.5, 0.4])
    others = ranked[~is_listed]  # 0.8, 0.1, 0.2
    assert others.max() < 0.01 and others.argsort().tolist() == [1, 2, 0]
    assert torch.isfinite(ranked).all()


def test_equal_estimates_rank_behind_as_well() -> None:
    ranked = put_first(torch.full((2, 2), 0.5), torch.eye(2, dtype=torch.bool), torch.tensor([0.3, 0.2]))
    assert ranked[0, 1] == ranked[1, 0] < 0.2 and torch.isfinite(ranked).all()


@pytest.mark.parametrize("name", ["SGR", "SAF"])
def test_chosen_pairs_have_the_scores_of_all_pairs(
    name: str, split: PrecomputedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, over several blocks, some twice."""
    monkeypatch.setattr(encoded_split, "CAPTION_BLOCK", 7)
    matcher = small_matcher(split, name)
    random = torch.Generator().manual_seed(0)
    image, caption = torch.randint(12, (90,), generator=random), torch.randint(60, (90,), generator=random)
    with torch.no_grad():
        chosen = score_chosen(matcher.similarity, encode_split(matcher, split, CPU), image, caption)
    expected = similarities(matcher, split, CPU)[image, caption]
    np.testing.assert_allclose(chosen.numpy(), expected, rtol=0, atol=1e-6)
    assert expected.std() > 1e-3, "scores that differ, or the test could not fail"


class _Metric(Similarity):
    """A similarity that is what the estimate supposes."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def score_pairs(self, images: EncodedImages, captions: EncodedCaptions, image: Tensor, caption: Tensor) -> Tensor:
        return torch.sigmoid(-1 + (images.pooled[image] - captions.pooled[caption]).square() @ self.weights)


def test_a_weighted_distance_is_found() -> None:
    """Weights of both signs: neither a cosine nor a plain distance would order these pairs."""
    random = torch.Generator().manual_seed(0)
    weights = 0.3 * torch.randn(6, generator=random)
    images = EncodedImages(torch.randn(40, 3, 6, generator=random), torch.randn(40, 6, generator=random))
    words, pooled = torch.randn(50, 4, 6, generator=random), torch.randn(50, 6, generator=random)
    lengths = torch.full((25,), 4)
    halves = [torch.arange(1, 50, 2), torch.arange(0, 50, 2)]
    encoded = EncodedSplit(images, [EncodedCaptions(words[h], lengths, pooled[h]) for h in halves], halves)
    found = torch.logit(estimated_scores(_Metric(weights), encoded, random))
    true = -1 + (images.pooled[:, None] - pooled).square() @ weights
    assert found.shape == (40, 50)
    assert np.corrcoef(found.flatten(), true.flatten())[0, 1] > 0.95
    plain = -(images.pooled[:, None] - pooled).square().sum(dim=2)
    assert abs(np.corrcoef(plain.flatten(), true.flatten())[0, 1]) < 0.7


def test_listed_pairs_are_exact_and_all_others_behind(split: PrecomputedSplit) -> None:
    matcher = small_matcher(split, "SGR").train()
    found = shortlisted_similarities({"A": matcher}, split, CPU, size=3)
    assert matcher.training and list(found.sims) == ["A"]
    sims, exact = found.sims["A"], similarities(matcher, split, CPU)
    is_listed = sims >= exact.min() - 1e-6  # the others are below every real score
    assert found.share == pytest.approx(is_listed.mean()) and 3 / 12 <= found.share < 0.5
    assert is_listed.sum(axis=0).min() >= 3 and is_listed.sum(axis=1).min() >= 3
    np.testing.assert_allclose(sims[is_listed], exact[is_listed], rtol=0, atol=1e-6)
    assert np.isfinite(sims).all() and sims[~is_listed].max() < sims[is_listed].min()
    again = shortlisted_similarities({"A": matcher}, split, CPU, size=3).sims["A"]
    assert np.array_equal(sims, again), "same seed, same bits"


def test_one_candidate_is_enough_to_rank(split: PrecomputedSplit) -> None:
    found = shortlisted_similarities({"A": small_matcher(split, "SAF")}, split, CPU, size=1)
    assert np.isfinite(found.sims["A"]).all() and 60 <= found.share * 12 * 60 <= 72


def test_networks_do_not_help_each_other(split: PrecomputedSplit) -> None:
    """The result of each is the one it has alone; the mean has a shortlist of its own."""
    matchers = {"A": small_matcher(split, "SGR"), "B": small_matcher(split, "SAF", seed=1)}
    together = shortlisted_similarities(matchers, split, CPU, size=2)
    assert list(together.sims) == ["A", "B", "mean"]
    exact = {name: similarities(matcher, split, CPU) for name, matcher in matchers.items()}
    for name, matcher in matchers.items():
        alone = shortlisted_similarities({name: matcher}, split, CPU, size=2).sims[name]
        np.testing.assert_allclose(together.sims[name], alone, rtol=0, atol=1e-6)
    mean = (exact["A"] + exact["B"]) / 2
    is_listed = together.sims["mean"] > 0
    assert is_listed.sum(axis=0).min() >= 2 and is_listed.sum(axis=1).min() >= 2
    np.testing.assert_allclose(together.sims["mean"][is_listed], mean[is_listed], rtol=0, atol=1e-6)
    assert not np.array_equal(is_listed, together.sims["A"] > 0)


def test_parts_have_shortlists_of_their_own(split: PrecomputedSplit) -> None:
    matcher = small_matcher(split, "SGR")
    folds = [(np.arange(k, k + 6), np.arange(5 * k, 5 * k + 30)) for k in (0, 6)]
    listed = shortlisted_similarities({"A": matcher}, split, CPU, size=2, folds=folds).sims["A"] > 0
    whole = shortlisted_similarities({"A": matcher}, split, CPU, size=2).sims["A"] > 0
    assert not (whole & ~listed).any() and listed.sum() > whole.sum()
    for images, captions in folds:
        part = listed[np.ix_(images, captions)]
        assert part.sum(axis=0).min() >= 2 and part.sum(axis=1).min() >= 2


def test_a_diverged_network_is_told(split: PrecomputedSplit) -> None:
    matcher = small_matcher(split, "SGR")
    with torch.no_grad():
        matcher.region_encoder.fc.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="diverged"):
        shortlisted_similarities({"A": matcher}, split, CPU, size=2)


def test_equal_scores_give_an_estimate(split: PrecomputedSplit) -> None:
    """A collapsed network has no feature that tells pairs apart: nothing is divided by zero."""
    encoded = encode_split(small_matcher(split, "SGR"), split, CPU)
    estimates = estimated_scores(_Metric(torch.zeros(8)), encoded, generator(0, "x"))
    torch.testing.assert_close(estimates, torch.full((12, 60), float(torch.sigmoid(torch.tensor(-1.0)))))


def test_vectors_that_are_all_alike_give_an_estimate() -> None:
    """A network that encodes everything alike."""
    side = EncodedImages(torch.ones(4, 2, 3), torch.ones(4, 3))
    encoded = EncodedSplit(
        side, [EncodedCaptions(torch.ones(5, 2, 3), torch.full((5,), 2), torch.zeros(5, 3))], [torch.arange(5)]
    )
    estimates = estimated_scores(_Metric(torch.ones(3)), encoded, generator(0, "x"))
    torch.testing.assert_close(estimates, torch.full((4, 5), float(torch.sigmoid(torch.tensor(2.0)))))


def test_a_split_of_one_image(tmp_path: Path) -> None:
    split = small_split(tmp_path, images=1)
    matcher = small_matcher(split, "SGR")
    found = shortlisted_similarities({"A": matcher}, split, CPU, size=1)
    np.testing.assert_allclose(found.sims["A"], similarities(matcher, split, CPU), rtol=0, atol=1e-6)
