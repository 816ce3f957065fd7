"""Every method with SCAN and GPO: losses, division signals, and a short run of each, end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

import evaluation
import run
from evaluation import retrieval
from methods import known_methods
from methods.blocks.method import Scored, Views
from tests.models.networks import dense_scores, gradients, make_batch, make_matcher
from tests.tiny import tiny_flags
from training.network import Network
from training.step import Part, part_loss

MODULES = ("SCAN_t2i", "SCAN_i2t", "GPO")
LENGTHS = (3, 2, 5, 3, 1, 2, 3, 6)
SIZE = len(LENGTHS)
IMAGES, CAPTIONS_PER_IMAGE = 8, 5

every_method = pytest.mark.parametrize("name", known_methods())
every_module = pytest.mark.parametrize("module_name", MODULES)


@pytest.mark.parametrize("image_id", [None, (0, 1, 2, 0, 3, 4, 5, 1)], ids=["distinct", "shared"])
@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
@every_module
@every_method
def test_scoring_touched_pairs_again_is_the_dense_loss(
    name: str, module_name: str, hardness: float, image_id: tuple[int, ...] | None
) -> None:
    kind = known_methods()[name]
    method, batch = kind(kind.Config()), make_batch(LENGTHS, image_id=image_id)
    labels = torch.linspace(0.1, 1, SIZE, dtype=torch.float64)
    kept = torch.arange(SIZE) % 4 != 0
    matcher = make_matcher(module_name).train()
    network = Network("A", matcher, cast(torch.optim.Adam, None), method, torch.Generator())
    loss = part_loss(network, Part(batch, labels, kept), hardness)
    twin = make_matcher(module_name).train()
    embeddings = twin.embed(batch)
    scores = method.scores(dense_scores(twin, embeddings), embeddings, batch)
    dense = method.loss(scores, batch, labels, kept=kept, hardness=hardness)
    assert dense > 0
    torch.testing.assert_close(loss, dense)
    found = zip(gradients(loss, matcher.parameters()), gradients(dense, twin.parameters()), strict=True)
    for mine, theirs in found:
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, SIZE])
@every_module
@every_method
def test_signals_and_labels_are_one_number_a_pair(name: str, module_name: str, size: int) -> None:
    kind = known_methods()[name]
    method = kind(kind.Config())
    batches = [make_batch(LENGTHS[-size:], seed=seed) for seed in (1, 5)]
    clean, noisy = (
        Views(*(Scored(make_matcher(module_name, seed=k).eval(), method, batch) for k in range(2))) for batch in batches
    )
    for values in (method.pair_signal(clean.student), *method.diagnostics(clean.student).values()):
        assert values.shape == (size,) and torch.isfinite(values).all()
    labels = method.refine(clean, noisy, torch.linspace(0, 1, size, dtype=torch.float64))
    for label in (labels.clean, labels.noisy):
        assert label is None or (label.shape == (size,) and (label >= 0).all() and (label <= 1).all())


@pytest.mark.parametrize(
    "flags",
    [
        ["--module_name", "SCAN_t2i"],
        ["--module_name", "SCAN_i2t", "--scan_pooling", "mean", "--scan_softmax", "6", "--method", "bicro"],
        ["--module_name", "GPO", "--method", "ncr", "--no_imgnorm", "--no_txtnorm"],
    ],
    ids=" ".join,
)
def test_end_to_end(tiny_root: Path, tmp_path: Path, flags: list[str]) -> None:
    run.main(tiny_flags(tiny_root, tmp_path, *flags, "--warmup_epoch", "3", "--num_epochs", "3"))
    (folder,) = tmp_path.iterdir()
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    random = np.random.RandomState(0)
    owner = np.arange(IMAGES * CAPTIONS_PER_IMAGE) // CAPTIONS_PER_IMAGE
    chance = max(retrieval(random.rand(IMAGES, len(owner)), owner).r_sum for _ in range(50))
    assert results["test"]["mean"]["rSum"] > chance + 40
    output = tmp_path / "again.json"
    checkpoint = str(folder / "checkpoint_dev_best.pth.tar")
    evaluation.main(["--mode_path", checkpoint, "--gpu", "cpu", "--output", str(output)])
    again = json.loads(output.read_text(encoding="utf-8"))
    assert again["results"] == results["test"], "a checkpoint knows the flags of its similarity"
