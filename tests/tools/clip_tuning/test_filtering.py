"""The filter on CLIP's similarities: pools, figures, and the state that is stored."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from runtime.errors import InputError
from runtime.seed import generator
from tools.clip_tuning.embedding import Embeddings
from tools.clip_tuning.filtering import FilterConfig, Filtered, filter_metrics, filter_pairs, similarity_of_pairs

NUM_CLEAN, NUM_NOISY = 600, 400


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return similarities of two modes as published for a pretrained CLIP, and which pairs are clean."""
    random = np.random.RandomState(seed)
    similarity = np.concatenate([random.normal(0.313, 0.035, NUM_CLEAN), random.normal(0.169, 0.041, NUM_NOISY)])
    return similarity, np.arange(NUM_CLEAN + NUM_NOISY) < NUM_CLEAN


def test_similarity_goes_with_the_given_picture() -> None:
    draw = generator(0, "embeddings")
    embeddings = Embeddings(torch.randn(5, 8, generator=draw), torch.randn(12, 8, generator=draw))
    image_index = np.array([4, 0, 0, 1, 2, 3, 4, 4, 1, 0, 2, 3])
    expected = torch.cosine_similarity(embeddings.pictures[image_index], embeddings.captions)
    np.testing.assert_allclose(similarity_of_pairs(embeddings, image_index), expected, rtol=1e-5)


def test_the_noisy_mode_is_dropped() -> None:
    similarity, is_clean = drawn()
    found = filter_pairs(similarity, FilterConfig())
    figures = filter_metrics(found, is_clean)
    assert figures["is_split"] and figures["residual_noise"] < 0.05 and figures["recall"] > 0.93
    assert figures["auc"] > 0.99 and figures["separation"] == pytest.approx(0.144 / 0.038, rel=0.1)
    assert figures["share_kept"] == found.kept.mean() == pytest.approx(0.6, abs=0.03)
    kept_noise = (found.kept & ~is_clean).sum() / found.kept.sum()
    assert figures["residual_noise"] == pytest.approx(kept_noise)
    assert not {"residual_noise", "recall", "auc"} & set(filter_metrics(found, None))


def test_the_threshold_is_followed() -> None:
    similarity, _ = drawn()
    counts = [filter_pairs(similarity, FilterConfig(p_threshold=t)).kept.sum() for t in (0.01, 0.5, 0.99)]
    assert counts[0] > counts[1] > counts[2]


def test_one_mode_is_kept_whole() -> None:
    similarity = drawn()[0][:NUM_CLEAN]
    found = filter_pairs(similarity, FilterConfig())
    assert found.kept.all() and not found.modes.is_split and "one mode" in found.modes.note


def test_pools() -> None:
    """What the first filtering dropped may return from the full pool, not from the cumulative one."""
    first = filter_pairs(drawn(0)[0], FilterConfig())
    later = drawn(0)[0].copy()
    back, out = np.flatnonzero(~first.kept)[:150], np.flatnonzero(first.kept)[:150]
    later[back], later[out] = later[out].copy(), later[back].copy()
    full = filter_pairs(later, FilterConfig(), first)
    cumulative = filter_pairs(later, FilterConfig(filter_pool="cumulative"), first)
    assert full.kept[back].mean() > 0.9 and full.kept[out].mean() < 0.1
    assert not (cumulative.kept & ~first.kept).any() and (cumulative.probability[~first.kept] == 0).all()
    assert cumulative.kept[out].mean() < 0.1
    assert cumulative.modes.num_pairs == first.kept.sum() and full.modes.num_pairs == len(later)
    alone = filter_pairs(later, FilterConfig(filter_pool="cumulative"))
    np.testing.assert_array_equal(alone.kept, full.kept)


def test_stored_and_read_again() -> None:
    found = filter_pairs(drawn()[0], FilterConfig())
    buffer = io.BytesIO()
    torch.save(found.state(), buffer)
    buffer.seek(0)
    again = Filtered.of_state(torch.load(buffer, weights_only=True))
    assert again.modes == found.modes
    for name in ("similarity", "probability", "kept"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


def test_no_pair_is_told() -> None:
    with pytest.raises(InputError, match="keeps no pair: --p_threshold 0.999999"):
        filter_pairs(drawn()[0], FilterConfig(p_threshold=0.999999, mode_prior="0.001"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p_threshold": 1.0}, "--p_threshold 1.0 is out of range"),
        ({"refit_every": 0}, "--refit_every 0 is out of range"),
        ({"filter_pool": "some"}, "--filter_pool 'some' is unknown; known: full, cumulative"),
        ({"margin_policy": "some"}, "--margin_policy 'some' is unknown"),
        ({"mode_prior": "2"}, "--mode_prior '2' is unknown"),
    ],
)
def test_bad_flags(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FilterConfig(**changes)  # type: ignore[arg-type]
