"""The evaluation benchmark on a tiny split: its rows, that both formulations agree, and what it leaves on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import evaluation
from benchmarks.published_sizes import LONGEST, SHORTEST, caption_lengths, published_split, random_batch
from models.matcher import bf16_is_supported

SMALL = ["--images", "6", "--captions_per_image", "2", "--embed_size", "16", "--repeats", "1"]


@pytest.mark.parametrize("module_name", ["SGR", "SAF"])
def test_the_rows(module_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "rows.json"
    evaluation.main([*SMALL, "--module_name", module_name, "--json", str(target)])
    exact, *low = json.loads(target.read_text(encoding="utf-8"))
    assert [("bf16" in row["name"]) for row in low] == [True] * bf16_is_supported(torch.device("cpu"))
    assert "6 x 12, exact" in exact["name"]
    assert exact["max_diff"] < 1e-5, "both formulations compute the same scores"
    text = capsys.readouterr().out
    assert exact["name"] in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--repeats", "0"], "--repeats 0"),
        (["--device", "tpu"], "--device 'tpu'"),
        (["--json", "no/such/folder/x.json"], "no/such/folder"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_flags_that_make_no_sense(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluation.main([*SMALL, *flags])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and message in line and line.count("\n") == 1


def test_a_made_up_split_is_what_was_asked_for_and_leaves_nothing() -> None:
    with published_split(3, 4, num_regions=2, region_dim=5) as split:
        folder = split.regions.path.parent
        assert (split.num_images, len(split), split.region_shape, split.counts.captions_per_image) == (3, 12, (2, 5), 4)
        assert split.lengths.min() >= SHORTEST and split.lengths.max() <= LONGEST
        assert split.read_images(np.arange(3)).std() > 0.5
        assert folder.is_dir()
    assert not folder.exists()


def test_a_made_up_batch() -> None:
    batch = random_batch(6, num_regions=2, region_dim=5, captions_per_image=3)
    assert batch.regions.shape == (6, 2, 5) and batch.image_id.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(batch.regions[0], batch.regions[2]) and not torch.equal(batch.regions[2], batch.regions[3])
    assert torch.equal((batch.tokens > 0).sum(dim=1), batch.lengths)


def test_lengths_are_those_of_flickr30k() -> None:
    lengths = caption_lengths(20_000, torch.Generator().manual_seed(0)).double()
    assert float(lengths.mean()) == pytest.approx(14, abs=0.2) and float(lengths.std()) == pytest.approx(5.4, abs=0.3)
