"""SGR, SAF and VSE against their slow twins; tiles, single pairs, padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models import attention, similarity
from models.similarity import CaptionSide, ImageSide, Similarity, _GraphReasoning
from tests import reference
from tests.models.networks import LENGTHS, assert_same, gradients, make_batch, make_matcher, randomise, tensors_of

NAMES = ("SGR", "SAF", "VSE")
TWINS = {"SGR": reference.score_sgr, "SAF": reference.score_saf}
Inputs = tuple[Tensor, Tensor, Tensor]


def draw(lengths: tuple[int, ...] = LENGTHS, images: int = 3, seed: int = 3) -> Inputs:
    """Draw unit regions (images, R, D), unit words (C, W, D) with garbage beyond each caption, and lengths."""
    random = torch.Generator().manual_seed(seed)
    regions = torch.randn(images, 3, 6, generator=random, dtype=torch.float64)
    words = torch.randn(len(lengths), max(lengths), 6, generator=random, dtype=torch.float64)
    unit = torch.nn.functional.normalize
    return unit(regions, dim=2).requires_grad_(), unit(words, dim=2).requires_grad_(), torch.tensor(lengths)


def make(name: str) -> Similarity:
    """Return one similarity with random weights, in eval mode."""
    return make_matcher(name).similarity.eval()


def sides(module: Similarity, inputs: Inputs) -> tuple[ImageSide, CaptionSide]:
    """Prepare images and captions."""
    regions, words, lengths = inputs
    return module.image_side(regions), module.caption_side(words, lengths)


def score(module: Similarity, inputs: Inputs) -> Tensor:
    """Score every image against every caption."""
    return module(*sides(module, inputs))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, (1, 4, 1), (2,)], ids=str)
@pytest.mark.parametrize("name", TWINS)
def test_scores_gradients_and_running_statistics_are_the_twins(
    name: str, lengths: tuple[int, ...], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact without the norms' 1e-8, which weighs more in the twin: it divides by the softmax's sum before the norm."""
    module, inputs = make(name), draw(lengths)
    twin = TWINS[name](tensors_of(module), *inputs)
    torch.testing.assert_close(score(module, inputs), twin, rtol=0, atol=1e-5)
    monkeypatch.setattr(attention, "EPSILON", 0.0)
    monkeypatch.setattr(reference, "EPS", 0.0)
    module.train(training)
    state = tensors_of(module)
    buffers: dict[str, Tensor] = {}
    twin = TWINS[name](state, *inputs, training=training, buffers=buffers)
    assert_same(score(module, inputs), twin, [*inputs[:2], *module.parameters()])
    expected = {k: v for k, v in state.items() if k.endswith(("running_mean", "running_var"))} | buffers
    assert (len(buffers) > 0) == training
    for key, value in module.named_buffers():
        if key in expected:
            torch.testing.assert_close(value, expected[key], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("lengths", [LENGTHS, (1, 4, 1), (2,)], ids=str)
def test_vse_is_its_twin(lengths: tuple[int, ...]) -> None:
    inputs = draw(lengths)
    assert_same(score(make("VSE"), inputs), reference.score_vse(*inputs), inputs[:2])


def test_saf_statistics_follow_the_order_of_the_captions() -> None:
    """The running update is a recursion: the same captions in another order leave other statistics, as in the twin."""
    regions, words, lengths = draw()
    results = []
    for order in (torch.tensor([0, 1, 2, 3]), torch.tensor([2, 0, 3, 1])):
        module = make("SAF").train()
        state = tensors_of(module)
        buffers: dict[str, Tensor] = {}
        score(module, (regions, words[order], lengths[order]))
        reference.score_saf(state, regions, words[order], lengths[order], training=True, buffers=buffers)
        results.append(module.get_buffer("SAF_module.bn.running_mean").clone())
        torch.testing.assert_close(results[-1], buffers["SAF_module.bn.running_mean"])
        assert module.get_buffer("SAF_module.bn.num_batches_tracked") == len(lengths)
    assert not torch.allclose(results[0], results[1])


@pytest.mark.parametrize("name", NAMES)
def test_single_pairs_are_entries_of_the_whole(name: str) -> None:
    module, inputs = make(name), draw()
    images, captions = sides(module, inputs)
    image, caption = torch.tensor([2, 0, 0, 1, 2, 1]), torch.tensor([3, 2, 0, 1, 2, 1])
    chosen = module.score_pairs(images, captions, image, caption)
    assert_same(chosen, module(images, captions)[image, caption], [*inputs[:2], *module.parameters()])


@pytest.mark.parametrize(("tile_images", "tile_words", "pair_words"), [(3, 6, 6), (2, 1, 1), (1, 4, 3)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["SGR", "SAF"])
def test_tiles_do_not_matter(
    name: str, training: bool, tile_images: int, tile_words: int, pair_words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = draw((3, 2, 5, 3, 3, 2, 3, 1), images=7)
    image, caption = torch.arange(7), torch.tensor([6, 0, 3, 4, 1, 1, 2])

    def everything() -> tuple[Tensor, Tensor | None, dict[str, Tensor], Similarity]:
        module = make(name).train(training)
        images, captions = sides(module, inputs)
        sims = module(images, captions)
        pairs = None if training and module.couples_pairs else module.score_pairs(images, captions, image, caption)
        return sims, pairs, dict(module.named_buffers()), module

    calls = count_calls(monkeypatch, type(make(name)))
    sims, pairs, buffers, module = everything()
    before = dict(calls)
    monkeypatch.setattr(similarity, "TILE_IMAGES", tile_images)
    monkeypatch.setattr(similarity, "TILE_WORDS", tile_words)
    monkeypatch.setattr(similarity, "PAIR_WORDS", pair_words)
    tiled, tiled_pairs, tiled_buffers, tiled_module = everything()
    assert calls["score_tile"] > 2 * before["score_tile"], "nothing was cut into tiles"
    torch.testing.assert_close(tiled, sims, rtol=1e-12, atol=1e-12)
    if pairs is not None and tiled_pairs is not None:
        assert calls["score_group"] > 2 * before["score_group"]
        torch.testing.assert_close(tiled_pairs, pairs, rtol=1e-12, atol=1e-12)
    for key, value in buffers.items():
        torch.testing.assert_close(tiled_buffers[key], value, rtol=1e-12, atol=1e-12)
    own = zip(
        gradients(sims, [*inputs[:2], *module.parameters()]),
        gradients(tiled, [*inputs[:2], *tiled_module.parameters()]),
        strict=True,
    )
    for whole, cut in own:
        torch.testing.assert_close(cut, whole, rtol=1e-10, atol=1e-12)


def count_calls(monkeypatch: pytest.MonkeyPatch, kind: type[Similarity]) -> dict[str, int]:
    """Count how often tiles and groups are scored."""
    calls = {"score_tile": 0, "score_group": 0}

    def counted(name: str) -> Callable[..., Tensor]:
        inner = getattr(kind, name)

        def call(*args: object) -> Tensor:
            calls[name] += 1
            return inner(*args)

        return call

    for name in calls:
        monkeypatch.setattr(kind, name, counted(name))
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_matter(name: str) -> None:
    """Neither its width nor what is in it."""
    module, (regions, words, lengths) = make(name), draw()
    padded = torch.cat([words, torch.full((len(words), 3, 6), 50.0)], dim=1)
    for row, length in enumerate(lengths):
        padded[row, length:] = -7.0
    torch.testing.assert_close(score(module, (regions, padded, lengths)), score(module, (regions, words, lengths)))
    matcher, batch = make_matcher(name).eval(), make_batch()
    narrow = matcher.score(matcher.embed(batch))
    tokens = torch.nn.functional.pad(batch.tokens, (0, 4), value=3)
    again = matcher.similarity(matcher.encode_images(batch.regions), matcher.encode_captions(tokens, batch.lengths))
    torch.testing.assert_close(again, narrow)


@pytest.mark.parametrize("name", NAMES)
def test_eval_scores_of_a_pair_do_not_depend_on_its_batch(name: str) -> None:
    module, (regions, words, lengths) = make(name), draw()
    whole = score(module, (regions, words, lengths))
    for i in range(len(regions)):
        for j, length in enumerate(lengths):
            single = score(module, (regions[i : i + 1], words[j : j + 1, :length], lengths[j : j + 1]))
            torch.testing.assert_close(single, whole[i : i + 1, j : j + 1])


@pytest.mark.parametrize("name", NAMES)
def test_only_saf_in_training_couples_pairs(name: str) -> None:
    """Whoever says that pairs are apart must have them apart: the trainer then scores chosen pairs alone."""
    module = make(name).train()
    assert module.couples_pairs == (name == "SAF")
    assert module.differentiate_all or not module.couples_pairs
    images, captions = sides(module, draw())
    whole, fewer = module(images, captions), module(images[torch.tensor([0, 1])], captions)
    assert torch.allclose(whole[:2], fewer) != module.couples_pairs


@pytest.mark.parametrize("first_only", [False, True])
def test_merged_query_and_key_maps_are_the_separate_ones(first_only: bool) -> None:
    torch.manual_seed(0)
    step = _GraphReasoning(5).double()
    randomise(step)
    nodes = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    edges = torch.softmax(step.graph_query_w(nodes) @ step.graph_key_w(nodes).transpose(1, 2), dim=-1)
    twin = torch.relu(step.sim_graph_w(edges @ nodes))
    assert twin.abs().max() > 0.1
    assert_same(step(nodes, first_only=first_only), twin[:, :1] if first_only else twin, [nodes, *step.parameters()])


@pytest.mark.parametrize("name", TWINS)
def test_float32_is_close_to_float64(name: str) -> None:
    """Gradients in the precision that training uses."""
    found = []
    for dtype in (torch.float64, torch.float32):
        matcher, batch = make_matcher(name).to(dtype).train(), make_batch()
        images = matcher.encode_images(batch.regions.to(dtype))
        sims = matcher.similarity(images, matcher.encode_captions(batch.tokens, batch.lengths))
        sims.square().sum().backward()
        parts = [p.grad.double().flatten() for p in matcher.parameters() if p.grad is not None]
        found.append((sims.detach().double(), torch.cat(parts)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-5)
    assert (found[1][1] - found[0][1]).norm() < 1e-4 * found[0][1].norm()


def test_a_matcher_is_drawn_from_the_seed() -> None:
    first, second, other = make_matcher("SAF"), make_matcher("SAF"), make_matcher("SAF", seed=1)
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not any(torch.equal(a, c) for a, _, c in pairs)
