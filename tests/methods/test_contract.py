"""What every method must keep, whoever writes it: a new file in methods/ is tested here without being named."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from methods import Method, MethodConfig, known_methods, stored_config
from methods.blocks.method import Scored, SoftLabels, StudentAndPeer
from methods.blocks.mixture import FITS, clean_probability
from models.matcher import SIMILARITIES
from runtime.errors import InputError
from tests.models.networks import dense_scores, gradients, make_batch, make_matcher
from training.network import LabelledBatch, Network, part_loss

LENGTHS = (3, 2, 5, 3, 1, 2, 3, 6, 2, 3, 4, 5)
SIZE = len(LENGTHS)
IMAGE_IDS = {"distinct": None, "shared": (0, 1, 2, 0, 3, 4, 5, 1, 6, 7, 8, 0), "one image": (4,) * SIZE}

every_method = pytest.mark.parametrize("name", known_methods())
every_similarity = pytest.mark.parametrize("module_name", SIMILARITIES)


LABELS_SCALE_MARGINS = {"dsdmr": {"margin_policy": "posterior"}}
"""Flags with which labels scale margins, where they do not by default."""

HINGED = {"loss": "hinge"}
"""Every method can be trained with the hinge; of some it is not the default."""

MARGIN_FLAGS = {"dsdmr": ("image_margin", "text_margin")}
"""A method's flags for both margins, where that is not --margin."""


def make(name: str, **flags: Any) -> Method:
    """Build a method with its own default flags but these."""
    kind = known_methods()[name]
    return kind(stored_config(kind, flags))


def two_modes() -> np.ndarray:
    """Return a division signal, sorted: a sharp clean mode, a broad noisy one, and one pair of loss 0."""
    random = np.random.RandomState(0)
    return np.sort(np.concatenate([0.3 + 0.03 * random.randn(400), 0.7 + 0.2 * random.randn(100), [0.0]]))


def views(
    method: Method, module_name: str = "SGR", seed: int = 1, image_ids: str = "shared", size: int = SIZE
) -> StudentAndPeer:
    """Let two networks see one batch."""
    ids = IMAGE_IDS[image_ids]
    batch = make_batch(LENGTHS[:size], seed=seed, image_id=None if ids is None else ids[:size])
    return StudentAndPeer(*(Scored(make_matcher(module_name, seed=k).eval(), method, batch) for k in range(2)))


def assert_labels(labels: Tensor, size: int) -> None:
    """Assert one number in [0, 1] a pair."""
    assert labels.shape == (size,) and torch.isfinite(labels).all()
    assert (labels >= 0).all() and (labels <= 1).all()


@every_method
def test_config_is_a_frozen_dataclass_whose_every_flag_has_help(name: str) -> None:
    kind = known_methods()[name].Config
    assert issubclass(kind, MethodConfig)
    config = kind()
    for field in dataclasses.fields(kind):
        assert len(field.metadata["help"]) > 10, field.name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, field.default)
        known = field.metadata["choices"]
        if known:
            assert field.default in known
            with pytest.raises(InputError, match=f"--{field.name}.*{known[0]}"):
                kind(**cast(dict[str, Any], {field.name: "nonsense"}))


@pytest.mark.parametrize(("field", "bad"), [("margin", -0.1), ("p_threshold", 1.0), ("p_threshold", -0.1)])
@every_method
def test_values_out_of_range_name_their_flag(name: str, field: str, bad: float) -> None:
    with pytest.raises(InputError, match=f"--{field} {bad}"):
        known_methods()[name].Config(**cast(dict[str, Any], {field: bad}))


def test_settings_of_older_checkpoints_are_read() -> None:
    old = {"loss": "method", "signal": "method", "refine": "labels", "mask_matches": False, "margin": 0.1}
    found = stored_config(known_methods()["consensus"], old)
    assert (found.loss, found.signal, found.refine, found.margin) == ("bounded", "consensus", "labels", 0.1)
    assert stored_config(known_methods()["ncr"], old).loss == "hinge"
    with pytest.raises(TypeError, match="nonsense"):
        stored_config(known_methods()["ncr"], {"nonsense": 1})


@every_similarity
@every_method
def test_soft_labels_are_one_number_a_pair(name: str, module_name: str) -> None:
    method = make(name)
    for size, image_ids, with_noisy in product((1, 2, SIZE), IMAGE_IDS, (False, True)):
        chance = torch.linspace(0, 1, size, dtype=torch.float64)
        noisy = views(method, module_name, seed=5, image_ids=image_ids) if with_noisy else None
        labels = method.refine(views(method, module_name, image_ids=image_ids, size=size), noisy, chance)
        assert_labels(labels.clean, size)
        assert not labels.clean.requires_grad
        if labels.noisy is not None:
            assert with_noisy and labels.noisy_kept is not None
            assert_labels(labels.noisy, SIZE)
            assert labels.noisy_kept.shape == (SIZE,) and labels.noisy_kept.dtype == torch.bool
        assert (labels.noisy is not None) == (with_noisy and method.divides and method.trains_noisy)


def test_soft_labels_are_checked_at_the_door() -> None:
    """The published NCR broadcasts a target to (B, B); that must not pass."""
    with pytest.raises(AssertionError):
        SoftLabels(clean=torch.ones(3, 3))
    with pytest.raises(AssertionError):
        SoftLabels(clean=torch.ones(3), noisy=torch.ones(3, 3), noisy_kept=torch.ones(3, dtype=torch.bool))
    with pytest.raises(AssertionError):
        SoftLabels(clean=torch.ones(3), noisy=torch.ones(3))


@every_similarity
@every_method
def test_signal_and_diagnostics_are_one_number_a_pair(name: str, module_name: str) -> None:
    method = make(name)
    for size, image_ids in product((1, 2, SIZE), IMAGE_IDS):
        seen = views(method, module_name, image_ids=image_ids, size=size).student
        for values in (method.pair_signal(seen), *method.diagnostics(seen).values()):
            assert values.shape == (size,) and torch.isfinite(values).all(), (size, image_ids)


@every_method
def test_clean_probability_never_rises_with_the_signal(name: str) -> None:
    signal = two_modes()
    for fit_type in FITS:
        assert np.diff(clean_probability(signal, fit_type)).max() > 0.1, "the published posterior turns round"
        try:
            method = make(name, fit_type=fit_type)
        except InputError:  # a method with one mixture of its own
            assert fit_type != known_methods()[name].Config.fit_type
            continue
        probability = method.clean_probability(signal)
        assert np.diff(probability).max() <= 1e-12
        assert probability.min() < 0.5 < probability.max()


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
@every_method
def test_loss_is_a_number_with_a_gradient(name: str, hardness: float) -> None:
    method, batch, matcher = make(name), make_batch(LENGTHS), make_matcher("SGR").train()
    embeddings = matcher.embed(batch)
    sims = matcher.score(embeddings)
    for scores in (method.scores(sims, embeddings, batch), sims):
        assert scores.shape == (SIZE, SIZE)
        loss = method.loss(scores, batch, torch.linspace(0, 1, SIZE, dtype=torch.float64), hardness=hardness)
        assert loss.dim() == 0 and torch.isfinite(loss) and loss > 0
        found = gradients(loss, matcher.parameters())
        assert all(torch.isfinite(g).all() for g in found) and any(g.any() for g in found)


@every_method
def test_loss_is_the_sum_over_kept_pairs_between_mean_and_hardest(name: str) -> None:
    method, batch = make(name, **HINGED, **LABELS_SCALE_MARGINS.get(name, {})), make_batch(LENGTHS)
    method.clean_probability(two_modes())
    scores = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.linspace(0, 1, SIZE, dtype=torch.float64)
    each = method.per_pair_loss(scores, batch, labels, 1.0)
    kept = torch.arange(SIZE) % 3 == 0
    torch.testing.assert_close(method.loss(scores, batch, labels), each.sum())
    torch.testing.assert_close(method.loss(scores, batch, labels, kept=kept), each[kept].sum())
    assert method.loss(scores, batch, labels, kept=torch.zeros(SIZE, dtype=torch.bool)).item() == 0.0
    mean = method.loss(scores, batch, labels, hardness=0.0)
    torch.testing.assert_close(method.loss(scores, batch, labels, hardness=0.25), 0.75 * mean + 0.25 * each.sum())
    assert mean < each.sum()
    full = method.per_pair_loss(scores, batch, torch.ones(SIZE, dtype=torch.float64), 1.0)
    torch.testing.assert_close(full, method.per_pair_loss(scores, batch, None, 1.0))
    assert (full >= each).all() and (full[:-1] > each[:-1]).any()


@every_method
def test_captions_of_one_image_are_no_negatives_unless_asked_for(name: str) -> None:
    batch = make_batch((2, 2, 2), image_id=(0, 0, 1))
    scores = torch.full((3, 3), 0.5, dtype=torch.float64)
    for masked, negatives in ((True, [1, 1, 2]), (False, [2, 2, 2])):  # each costs the margin, both ways, over B = 3
        method = make(name, **HINGED, mask_same_image=masked, **dict.fromkeys(MARGIN_FLAGS.get(name, ("margin",)), 0.3))
        assert method.per_pair_loss(scores, batch).tolist() == pytest.approx([0.2 * n for n in negatives])


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
@every_similarity
@every_method
def test_scoring_touched_pairs_again_is_the_dense_loss(name: str, module_name: str, hardness: float) -> None:
    """The trainer's shortcut, gradient for the pairs that the loss touches alone, changes no loss and no gradient."""
    for image_ids in IMAGE_IDS:
        shortcut_is_dense(name, module_name, hardness, image_ids)


def shortcut_is_dense(name: str, module_name: str, hardness: float, image_ids: str) -> None:
    """Assert it for one batch."""
    method, ids = make(name), IMAGE_IDS[image_ids]
    batch = make_batch(LENGTHS, image_id=ids)
    labels = torch.linspace(0.1, 1, SIZE, dtype=torch.float64)
    kept = torch.arange(SIZE) % 4 != 0
    found = []
    for shortcut in (False, True):
        matcher = make_matcher(module_name).train()
        if shortcut:
            network = Network("A", matcher, cast(torch.optim.Adam, None), method, torch.Generator())
            loss = part_loss(network, LabelledBatch(batch, labels, kept), hardness)
        else:
            embeddings = matcher.embed(batch)
            scores = method.scores(dense_scores(matcher, embeddings), embeddings, batch)
            loss = method.loss(scores, batch, labels, kept=kept, hardness=hardness)
        found.append((loss.detach(), gradients(loss, matcher.parameters())))
    (dense, dense_gradients), (sparse, sparse_gradients) = found
    torch.testing.assert_close(sparse, dense)
    assert (dense > 0) == (image_ids != "one image"), image_ids
    scale = max(float(g.abs().max()) for g in dense_gradients)
    for mine, theirs in zip(sparse_gradients, dense_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10 * max(scale, 1e-3))


@every_method
def test_a_scored_batch_carries_no_gradient_and_is_scored_once(name: str) -> None:
    method = make(name)
    scored = views(method).student
    assert scored.sims is scored.sims and scored.scores is scored.scores
    assert not scored.sims.requires_grad and not scored.scores.requires_grad
    assert not scored.embeddings.image_global.requires_grad
