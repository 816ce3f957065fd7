"""The bank of a training set: its scores are the network's, or estimate them, and equal pictures are one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.blocks.agreement import PairBank
from models.encoded_split import similarities
from tests.training.trainers import make_trainer, warmed_up
from training.neighbourhood import collect_pairs

CPU = torch.device("cpu")


def scores_of(bank: PairBank) -> Tensor:
    """Return all scores (V, N) that a bank stands for."""
    return (bank.images * bank.slope) @ bank.captions.t() + bank.image_part[:, None] + bank.caption_part


@pytest.mark.parametrize("module", ["VSE", "GPO"])
def test_scores_of_pooled_vectors_are_the_networks(module: str, tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path, "--module_name", module, "--noise_ratio", "0.4")
    matcher, split = trainer.networks[0].matcher, trainer.data.train
    bank = collect_pairs(matcher, split, CPU).bank
    expected = similarities(matcher, split, CPU)
    np.testing.assert_allclose(scores_of(bank).numpy(), expected, atol=1e-5)
    assert np.array_equal(bank.image_of_pair.numpy(), split.image_of_pair)


@pytest.mark.parametrize("module", ["SGR", "SAF", "SCAN_t2i"])
def test_scores_of_other_similarities_are_estimated(module: str, tiny_root: Path, tmp_path: Path) -> None:
    trainer = warmed_up(make_trainer(tiny_root, tmp_path, "--module_name", module, "--noise_ratio", "0.4"), 3)
    matcher, split = trainer.networks[0].matcher, trainer.data.train
    estimated = scores_of(collect_pairs(matcher, split, CPU).bank).numpy().ravel()
    together = np.corrcoef(estimated, similarities(matcher, split, CPU).ravel())[0, 1]
    assert together > 0.7


def test_equal_pictures_have_one_number_and_train_mode_is_restored(tiny_root: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_root, tmp_path)
    matcher, split = trainer.networks[0].matcher.train(), trainer.data.train
    read = split.read_images

    def twins(images: np.ndarray) -> Tensor:
        return read(np.where(images == 7, 3, images))

    split.read_images = twins  # type: ignore[method-assign]
    found = collect_pairs(matcher, split, CPU)
    assert matcher.training
    picture = found.bank.picture
    assert picture[7] == picture[3] and len(picture.unique()) == split.num_images - 1
    torch.testing.assert_close(found.features[5], read(np.array([5]))[0].mean(dim=0))
