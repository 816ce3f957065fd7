"""Losses are what their definitions say, and a step lowers them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("transformers")

from methods.blocks.dynamic_margin import MarginConfig
from methods.blocks.modes import Mode, SimilarityModes
from runtime.seed import generator
from tests.tools.clip_tuning.made_up import CAPTIONS, SIDE, tiny_clip
from tools.clip_tuning.losses import contrastive_loss, loss_function
from tools.clip_tuning.model import Clip
from tools.clip_tuning.trainer import train_step

SIZE = 7
MODES = SimilarityModes(
    Mode(0.4, 0.1, 0.1), Mode(0.6, 0.4, 0.1), True, "", 3.0, 0.3, bic_gain=9.0, has_converged=True, num_pairs=99
)
Objective = Callable[[Tensor, Tensor], Tensor]


def batch(model: Clip) -> tuple[Tensor, Tensor]:
    """Return pictures (SIZE, 3, SIDE, SIDE) and ids (SIZE, W)."""
    pictures = torch.randn(SIZE, 3, SIDE, SIDE, generator=generator(0, "pictures"))
    return pictures, model.tokens((CAPTIONS * 2)[:SIZE]).ids


def objective(model: Clip, loss: str) -> Objective:
    """Return the loss of a batch in which two pairs share a picture."""
    image_id = torch.tensor([0, 1, 2, 3, 0, 5, 6])
    probability = torch.linspace(0, 1, SIZE)
    config = MarginConfig(margin_policy="posterior")
    return loss_function(loss, config, MODES, scale=lambda: model.scale, image_id=image_id, probability=probability)


def test_steps_lower_the_loss_and_clip_the_gradient() -> None:
    model = tiny_clip()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = [
        train_step(model, optimiser, *batch(model), objective(model, "contrastive"), grad_clip=0.5) for _ in range(8)
    ]
    assert losses[-1] < losses[0] - 0.2
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    assert norm <= 0.5 + 1e-4


# -- losses ------------------------------------------------------------------------


def units(seed: int) -> tuple[Tensor, Tensor]:
    draw = generator(seed, "units")
    return tuple(F.normalize(torch.randn(SIZE, 16, generator=draw), dim=1) for _ in range(2))  # type: ignore[return-value]


def test_contrastive_loss_leaves_out_the_pictures_other_captions() -> None:
    images, captions = units(1)
    image_id = [0, 1, 2, 3, 0, 5, 1]
    logits = 10 * images @ captions.T
    total = 0.0
    for scores in (logits, logits.T):
        for i in range(SIZE):
            others = [j for j in range(SIZE) if j == i or image_id[j] != image_id[i]]
            total -= float(scores[i, i] - torch.logsumexp(scores[i, others], dim=0))
    ours = contrastive_loss(images, captions, torch.tensor(10.0), torch.tensor(image_id))
    assert float(ours) == pytest.approx(total / 2 / SIZE, rel=1e-5)


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("loss", ["triplet", "dynamic"])
def test_hinges_over_the_hardest_or_over_all_negatives(loss: str, hardest: bool) -> None:
    """Against a slow twin: each anchor's largest hinge, or every negative's over the batch's size."""
    images, captions = units(3)
    config, image_id = MarginConfig(margin_policy="posterior"), [0, 1, 2, 3, 0, 5, 1]
    share = torch.linspace(0, 1, SIZE) if loss == "dynamic" else torch.ones(SIZE)
    scores, total = images @ captions.T, 0.0
    for i in range(SIZE):
        others = [j for j in range(SIZE) if image_id[i] != image_id[j]]
        for margin, rivals in ((0.3, scores[i]), (0.2, scores[:, i])):
            hinges = [max(0.0, margin * float(share[i]) - float(scores[i, i]) + float(rivals[j])) for j in others]
            total += max(hinges) if hardest else sum(hinges) / SIZE
    found = loss_function(
        loss,
        config,
        MODES,
        scale=lambda: torch.ones(()),
        image_id=torch.tensor(image_id),
        probability=share,
        hardest=hardest,
    )
    assert float(found(images, captions)) == pytest.approx(total / SIZE, rel=1e-5)
