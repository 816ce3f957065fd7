"""What a CLIP model makes of pairs: embeddings, the filter and its pools, the ranking, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from models.ranks import retrieval
from tests.tools.clip_tuning.made_up import make_pictures, tiny_clip, write_json
from tests.tools.conftest import ErrorOf
from tools.clip_tuning import evaluate
from tools.clip_tuning.evaluate import PreparedPairs, RefilterConfig, embed, filter_given_pairs, rank
from tools.clip_tuning.model import Clip
from tools.clip_tuning.pairs import Pairs, read_pairs

CAPTIONS_OF = (2, 1, 3, 1, 2, 2, 1)
"""Captions of each picture."""


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Seven pictures with one to three captions each."""
    kinds = np.stack(np.unravel_index(np.arange(0, 7 * 31, 31), (4, 4, 4, 4)), axis=1)
    rows = make_pictures(tmp_path, kinds, "p")
    entries = [
        {"image": name, "caption": [f"{caption} number {k}" for k in range(count)]}
        for (name, caption), count in zip(rows, CAPTIONS_OF, strict=True)
    ]
    return read_pairs(write_json(tmp_path / "pairs.json", entries), "test")


@pytest.fixture
def model() -> Clip:
    return tiny_clip()


def test_embeddings_go_with_their_numbers(pairs: Pairs, model: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of any size, in evaluation mode, with the mode restored; captions with the pictures they are given."""
    data = PreparedPairs.of(pairs, model)
    pictures, captions = embed(model, data)
    assert pictures.shape == (7, 16) and captions.shape == (12, 16)
    monkeypatch.setattr(evaluate, "CHUNK", 2)
    parts = embed(model.train(), data)
    assert model.training and not parts[0].requires_grad
    torch.testing.assert_close(parts, (pictures, captions))
    model.eval()
    with torch.no_grad():
        settings = model.preprocessing
        alone = model.embed_pictures(settings.normalise(settings.prepare(pairs.pictures.pixels(4))[None]))
        text = model.embed_captions(model.tokens([pairs.captions[5]]).ids)
    torch.testing.assert_close((alone[0], text[0]), (pictures[4], captions[5]))
    given = np.array([4, 0, 0, 1, 2, 3, 4, 4, 1, 0, 2, 6])
    found = filter_given_pairs(model, data, given, RefilterConfig())
    expected = torch.cosine_similarity(pictures[given], captions)
    np.testing.assert_allclose(found.similarity, expected, rtol=1e-5)


def test_whole_and_folds(pairs: Pairs, model: Clip) -> None:
    data = PreparedPairs.of(pairs, model)
    pictures, captions = embed(model, data)
    sims = (pictures @ captions.T).numpy()
    found = rank(model, data, 1000)
    assert found.whole == retrieval(sims, pairs.image_of_caption) and found.folds is None
    folded = rank(model, data, 3)
    assert folded.whole == found.whole and folded.folds is not None
    sums = []
    for start in (0, 3, 6):  # three, three and one picture
        own = (pairs.image_of_caption >= start) & (pairs.image_of_caption < start + 3)
        sums.append(retrieval(sims[start : start + 3, own], pairs.image_of_caption[own] - start).r_sum)
    assert sums[2] == 600
    assert folded.folds.r_sum == folded.as_dict()["folds"]["rSum"] == pytest.approx(np.mean(sums))


def test_the_command(pairs: Pairs, model: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save(tmp_path / "model")
    flags = ["--clip", str(tmp_path / "model"), "--dev_pairs", pairs.name, "--split", "dev", "--gpu", "cpu"]
    evaluate.main([*flags, "--fold_images", "3", "--output", str(tmp_path / "out.json"), "--workers", "2"])
    said = capsys.readouterr().out
    assert "7 images x 12 captions" in said and "3-image" in said
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["images"], found["captions"], found["split"]) == (7, 12, "dev")
    assert found["results"] == json.loads(json.dumps(rank(model, PreparedPairs.of(pairs, model), 3).as_dict()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--clip is missing; give a folder with config.json"),
        (["--clip", "nowhere"], "--clip nowhere is no folder"),
        (["--clip", "x", "--split", "testall"], "--split 'testall' is unknown"),
        (["--clip", "x", "--output", "/nowhere/out.json"], "its folder does not exist"),
        (["--clip", "x", "--test_pairs", "none.json"], "none.json cannot be read"),
        (["--clip", "x", "--data_name", "none"], "no data set 'none'"),
    ],
)
def test_wrong_input(flags: list[str], message: str, error_of: ErrorOf) -> None:
    assert message in error_of(evaluate.main, [*flags, "--gpu", "cpu"])
