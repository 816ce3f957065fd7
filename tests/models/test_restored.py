"""Networks from checkpoints: ours, and those of the lineage, whose golden scores they give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluation
from models.restored import restore
from runtime.errors import InputError
from tests.models.networks import make_matcher

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "legacy_sgr"
STATISTICS = ("R@1", "R@5", "R@10", "median_rank", "mean_rank")


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
