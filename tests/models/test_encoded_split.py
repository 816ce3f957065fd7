"""A split encoded: blocks change nothing, the mode is left alone, the mean of networks, vectors to compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models import encoded_split
from models.encoded_split import encode_split, similarities, similarities_by_name, with_mean
from tests.models.splits import small_matcher, small_split

CPU = torch.device("cpu")


def test_the_mean_of_networks_is_a_float32_mean() -> None:
    one, two = (np.random.RandomState(k).rand(3, 4).astype(np.float32) for k in range(2))
    named = with_mean({"A": one, "B": two})
    assert list(named) == ["A", "B", "mean"] and named["mean"].dtype == np.float32
    assert np.array_equal(named["mean"], (one + two) / np.float32(2))
    assert list(with_mean({"A": one})) == ["A"]


@pytest.mark.parametrize("name", ["SGR", "VSE"])
def test_scores_of_a_split_do_not_depend_on_blocks_and_leave_the_mode_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = small_split(tmp_path)
    matcher = small_matcher(split, name).train()
    whole = similarities(matcher, split, CPU)
    assert matcher.training and whole.shape == (7, 35) and whole.dtype == np.float32
    monkeypatch.setattr(encoded_split, "IMAGE_BLOCK", 2)
    monkeypatch.setattr(encoded_split, "CAPTION_BLOCK", 3)
    np.testing.assert_allclose(similarities(matcher.eval(), split, CPU), whole, rtol=0, atol=1e-6)
    assert not matcher.training
    with torch.no_grad():  # one pair at a time, at its place
        for image, caption in ((0, 0), (3, 17), (6, 34), (5, 2)):
            tokens, lengths = split.tokens(np.array([caption]))
            side = matcher.encode_images(split.read_images(np.array([image])))
            single = matcher.similarity(side, matcher.encode_captions(tokens, lengths))
            assert float(single) == pytest.approx(whole[image, caption], abs=1e-6)


def test_networks_keep_their_names(tmp_path: Path) -> None:
    split = small_split(tmp_path)
    one, two = (small_matcher(split, "VSE", seed=k) for k in range(2))
    named = similarities_by_name({"A": one, "B": two}, split, CPU)
    assert list(named) == ["A", "B", "mean"]
    assert np.array_equal(named["B"], similarities(two, split, CPU))
    assert not np.array_equal(named["A"], named["B"])


def test_a_gallery_holds_every_caption_once_with_its_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_split, "CAPTION_BLOCK", 8)
    split = small_split(tmp_path)
    matcher = small_matcher(split, "SGR").train()
    encoded = encode_split(matcher, split, CPU)
    assert matcher.training and encoded.shape == (7, 35) and len(encoded.blocks) == 5
    assert torch.cat(encoded.columns).sort().values.tolist() == list(range(35))
    images, captions = encoded.vectors()
    matcher.eval()
    with torch.no_grad():  # each alone
        for number in range(35):
            tokens, lengths = split.tokens(np.array([number]))
            side = matcher.encode_captions(tokens, lengths)
            expected = torch.cat([side.pooled[0], side.words[0].mean(dim=0)])
            torch.testing.assert_close(captions[number], expected, rtol=0, atol=1e-6)
        alone = matcher.encode_images(split.read_images(np.array([3])))
        expected = torch.cat([alone.pooled[0], alone.regions[0].mean(dim=0)])
        torch.testing.assert_close(images[3], expected, rtol=0, atol=1e-6)
