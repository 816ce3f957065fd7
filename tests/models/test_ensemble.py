"""A split encoded and scored, networks from checkpoints, and several networks ranked in turn."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluation
from models import ensemble
from models.ensemble import (
    caption_vectors,
    encode_split,
    image_vectors,
    rank_scores,
    restore,
    scores_in_turn,
    similarities,
)
from models.ranks import folds_of, mean_retrieval, retrieval
from models.relevance import relevance_result
from runtime.errors import InputError
from tests.models.networks import make_matcher
from tests.models.splits import small_matcher, small_split
from tests.models.test_ranks import HAND_MADE, OWNERS

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "legacy_sgr"
STATISTICS = ("R@1", "R@5", "R@10", "median_rank", "mean_rank")


@pytest.mark.parametrize("name", ["SGR", "VSE"])
def test_scores_of_a_split_do_not_depend_on_blocks_and_leave_the_mode_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = small_split(tmp_path)
    matcher = small_matcher(split, name).train()
    whole = similarities(matcher, split, CPU)
    assert matcher.training and whole.shape == (7, 35) and whole.dtype == np.float32
    monkeypatch.setattr(ensemble, "IMAGE_BLOCK", 2)
    monkeypatch.setattr(ensemble, "CAPTION_BLOCK", 3)
    np.testing.assert_allclose(similarities(matcher.eval(), split, CPU), whole, rtol=0, atol=1e-6)
    assert not matcher.training
    with torch.no_grad():  # one pair at a time, at its place
        for image, caption in ((0, 0), (3, 17), (6, 34), (5, 2)):
            tokens, lengths = split.tokens(np.array([caption]))
            side = matcher.encode_images(split.read_images(np.array([image])))
            single = matcher.similarity(side, matcher.encode_captions(tokens, lengths))
            assert float(single) == pytest.approx(whole[image, caption], abs=1e-6)


def test_a_gallery_holds_every_caption_once_with_its_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "CAPTION_BLOCK", 8)
    split = small_split(tmp_path)
    matcher = small_matcher(split, "SGR").train()
    encoded = encode_split(matcher, split, CPU)
    assert matcher.training and encoded.shape == (7, 35) and len(encoded.blocks) == 5
    assert torch.cat(encoded.columns).sort().values.tolist() == list(range(35))
    for block in encoded.blocks:
        mask = torch.arange(block.words.shape[1]) < block.lengths[:, None]
        expected = torch.stack([words[there].mean(dim=0) for words, there in zip(block.words, mask, strict=True)])
        torch.testing.assert_close(caption_vectors(block), torch.cat([block.pooled, expected], dim=1))
    expected = torch.cat([encoded.images.pooled, encoded.images.regions.mean(dim=1)], dim=1)
    assert torch.equal(image_vectors(encoded.images), expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_networks_are_scored_in_turn_and_their_mean(tmp_path: Path, count: int) -> None:
    split = small_split(tmp_path)
    matchers = {name: small_matcher(split, "VSE", seed=k) for k, name in enumerate(("A", "B", "A1")[:count])}
    alone = {name: similarities(matcher, split, CPU) for name, matcher in matchers.items()}
    mean = sum(alone.values()) / np.float32(count)
    expected = {**alone, "mean": mean} if count > 1 else alone
    found = {name: sims.copy() for name, sims in scores_in_turn(matchers, split, CPU)}
    assert list(found) == list(expected)
    for name, sims in found.items():
        np.testing.assert_allclose(sims, expected[name], rtol=0, atol=1e-6)
        assert sims.dtype == np.float32


def test_two_matrices_are_in_memory_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def fake(matcher: int, *_: object) -> np.ndarray:
        nonlocal most
        gc.collect()
        sims = np.random.RandomState(matcher).rand(4, 8)
        alive.append(weakref.ref(sims))
        most = max(most, sum(ref() is not None for ref in alive))
        return sims

    monkeypatch.setattr(ensemble, "similarities", fake)
    named = dict(zip("ABCDE", range(5), strict=True))
    found = rank_scores(scores_in_turn(named, None, None), OWNERS)  # type: ignore[arg-type]
    assert list(found.whole) == [*"ABCDE", "mean"] and most == 2


def test_everything_that_is_asked_for_is_ranked() -> None:
    other, kept = HAND_MADE[::-1].copy(), {}
    truth = {"i2t": np.array([(0, 1), (2, 5)]), "t2i": np.array([(3, 0), (4, 1)])}
    found = rank_scores(
        [("A", HAND_MADE), ("B", other)],
        OWNERS,
        fold_images=2,
        truth=truth,
        keep=lambda name, sims: kept.update({name: sims.copy()}),
    )
    for name, sims in (("A", HAND_MADE), ("B", other)):
        assert found.whole[name] == retrieval(sims, OWNERS)
        assert found.folds[name] == mean_retrieval(folds_of(sims, OWNERS, 2))
        assert found.relevance[name] == relevance_result(sims, truth)
        assert np.array_equal(kept[name], sims)
    assert found.whole["A"] != found.whole["B"]
    plain = rank_scores([("A", HAND_MADE)], OWNERS)
    assert not plain.folds and not plain.relevance


# -- checkpoints -----------------------------------------------------------------------------------------------------


def checkpoint_of(module_name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    matcher = make_matcher(module_name).float()
    sizes = {"module_name": module_name, "word_dim": 4, "embed_size": 6, "sim_dim": 5, "sgr_step": 2}
    shape = {"vocabulary_size": 11, "num_regions": 3, "region_dim": 5}
    return matcher, {"config": {"matcher": sizes, "shape": shape}, "networks": [matcher.state_dict()] * 2}


@pytest.mark.parametrize("module_name", ["SGR", "SAF", "VSE"])
def test_weights_and_statistics_come_back(module_name: str) -> None:
    matcher, checkpoint = checkpoint_of(module_name)
    restored = restore(checkpoint, "x")
    assert len(restored) == 2
    for name, value in restored[1].state_dict().items():
        assert torch.equal(value, matcher.state_dict()[name])


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("matcher", "embed_size", 7, "do not fit its own dimensions"),
        ("shape", "num_regions", 4, "do not fit its own dimensions"),
        ("matcher", "nonsense", 4, "a network that this suite does not have: 'nonsense'"),
        ("matcher", "module_name", "AVE", "a network that this suite does not have: .*AVE"),
        ("matcher", "sgr_step", 0, "a network that this suite does not have: --sgr_step 0"),
    ],
)
def test_what_does_not_fit_is_refused(section: str, name: str, value: Any, message: str) -> None:
    _, checkpoint = checkpoint_of("SGR")
    checkpoint["config"][section][name] = value
    with pytest.raises(InputError, match=f"(?s)^some/path .*{message}"):
        restore(checkpoint, "some/path")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files are not part of the project")
def test_the_golden_legacy_checkpoint(tmp_path: Path) -> None:
    """Scores within 1e-5 and the recalls of the reference, from the command line."""
    saved, output = tmp_path / "s.npz", tmp_path / "r.json"
    places = ["--data_path", str(GOLDEN / "data"), "--vocab_path", str(GOLDEN / "vocab"), "--data_name", "f30k_precomp"]
    targets = ["--gpu", "cpu", "--save_sims", str(saved), "--output", str(output)]
    evaluation.main(["--mode_path", str(GOLDEN / "checkpoint_dev_best.pth.tar"), *places, *targets])
    with np.load(saved) as ours, np.load(GOLDEN / "expected_sims.npz") as theirs:
        for name in ("A", "B"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5)
    record = json.loads(output.read_text(encoding="utf-8"))
    expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    for name, theirs_name in (("A", "A"), ("B", "B"), ("mean", "ensemble")):
        for way in ("i2t", "t2i"):
            found = [record["results"][name][way][key] for key in STATISTICS]
            assert found == pytest.approx(expected[theirs_name][way], rel=1e-12)
        assert record["results"][name]["rSum"] == pytest.approx(expected[theirs_name]["rsum"])
