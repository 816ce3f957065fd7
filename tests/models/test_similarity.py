"""SGR, SAF and VSE against their slow twins; chunks, lists of pairs, padding of every similarity."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks import published
from models import attention, sgraf, similarity
from models.matcher import SIMILARITIES, ScoringConfig, prepare_scoring
from models.sgraf import SGR, GraphReasoning, reason
from models.similarity import EncodedCaptions, EncodedImages, Similarity, split_by_length
from tests import reference
from tests.models.networks import (
    CROSS,
    LENGTHS,
    assert_same,
    dense_scores,
    gradients,
    make_batch,
    make_matcher,
    randomise,
    tensors_of,
)

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


def sides(module: Similarity, inputs: Inputs) -> tuple[EncodedImages, EncodedCaptions]:
    """Prepare images and captions."""
    regions, words, lengths = inputs
    return module.pool_images(regions), module.pool_captions(words, lengths)


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
    monkeypatch.setattr(sgraf, "EPSILON", 0.0)
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


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 40))
def test_captions_are_split_by_length(lengths: list[int], words: int) -> None:
    """Every caption once, shorter ones first; no part is longer or emptier than allowed, or smaller than need be."""

    def fits(part: list[int]) -> bool:
        padded = len(part) * max(part)
        return padded <= words and padded - sum(part) <= similarity.PADDING * padded

    parts = list(split_by_length(torch.tensor(lengths), words))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    own = [[lengths[k] for k in part.tolist()] for part in parts]
    assert [n for part in own for n in part] == sorted(lengths)
    assert all(len(part) == 1 or fits(part) for part in own)
    assert not any(fits([*part, following[0]]) for part, following in zip(own, own[1:], strict=False))


@pytest.fixture(params=["one graph", "small chunks", "one image a chunk"])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How pairs are cut: chunks that hold all, or so small that captions of several lengths share few."""
    images, words = {"one graph": (16, 64), "small chunks": (3, 6), "one image a chunk": (1, 1)}[request.param]
    monkeypatch.setattr(similarity, "FEWEST_IMAGES", images)
    monkeypatch.setattr(similarity, "FEWEST_WORDS", words)
    if request.param != "one graph":
        monkeypatch.setitem(similarity.CHUNK_NUMBERS, "cpu", 100)
        monkeypatch.setattr(similarity, "COUPLED_NUMBERS", 0)
    return request.param


def weights_of(kind: str, size: int) -> Tensor:
    """Draw what the scores are multiplied by, so that all, most, few or none of them have gradient."""
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(size, size, generator=random, dtype=torch.float64)
    share = {"all": 1.0, "most": 0.85, "few": 0.2, "none": 0.0}[kind]
    return weights * (torch.rand(size, size, generator=random) < share)


@pytest.mark.parametrize("kind", ["all", "most", "few", "none"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CROSS)
def test_chunks_do_not_matter(name: str, training: bool, kind: str, chunked: str) -> None:
    """Scores, gradients and statistics are those of one caption after the other in one graph."""
    matcher, twin = (make_matcher(name).train(training) for _ in range(2))
    batch = make_batch((3, 2, 5, 3, 3, 2, 3, 1, 4, 3))
    sims, dense = matcher.score(matcher.embed(batch)), dense_scores(twin, twin.embed(batch))
    torch.testing.assert_close(sims, dense, rtol=1e-10, atol=1e-12)
    weights = weights_of(kind, len(batch))
    found = gradients((sims * weights).sum(), list(matcher.parameters()))
    expected = gradients((dense * weights).sum(), list(twin.parameters()))
    assert (max(float(g.abs().max()) for g in expected) > 1e-3) == (kind != "none")
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(matcher.score(matcher.embed(batch)), dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_single_pairs_are_entries_of_the_whole(name: str, chunked: str) -> None:
    """In any order, some twice, some without gradient."""
    module, inputs = make(name), draw()
    images, captions = sides(module, inputs)
    image, caption = torch.tensor([2, 0, 0, 1, 2, 1, 2]), torch.tensor([3, 2, 0, 1, 2, 1, 3])
    factors = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 1.0, 3.0])
    found = module.score_pairs(images, captions, image, caption)
    assert_same(
        found * factors, module(images, captions)[image, caption] * factors, [*inputs[:2], *module.parameters()]
    )
    with torch.no_grad():
        torch.testing.assert_close(module.score_pairs(images, captions, image, caption), found)


@pytest.mark.parametrize("images", [12, 20])
def test_only_touched_pairs_are_scored_again_and_no_activations_are_kept(
    images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(similarity.CHUNK_NUMBERS, "cpu", 0)
    matcher, batch = make_matcher("SGR").train(), make_batch((3,) * images)
    embeddings, sizes, scored = matcher.embed(batch), [], []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sims = matcher.score(embeddings)
    assert sum(sizes) < 1500, "what is kept grows with the square of the batch"
    original = SGR.score_block

    def count(self: SGR, *arguments: Any) -> Tensor:
        scores = original(self, *arguments)
        scored.append(scores.numel())
        return scores

    monkeypatch.setattr(SGR, "score_block", count)
    (sims.diagonal().sum() + sims[0, 5]).backward()
    assert sum(scored) == images + 1


@pytest.mark.parametrize("name", CROSS)
def test_lower_precision_is_near_and_never_in_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.matcher.bf16_is_supported", lambda device: True)
    matcher = make_matcher(name).eval()
    embeddings = matcher.embed(make_batch())
    with torch.no_grad():
        full = matcher.score(embeddings)
        prepare_scoring([matcher], ScoringConfig("bf16"), torch.device("cpu"))
        low = matcher.score(embeddings)
        torch.testing.assert_close(matcher.score_given(embeddings), full.diagonal())
    assert low.dtype == full.dtype and 0 < (low - full).abs().max() < 0.05
    torch.testing.assert_close(matcher.score(embeddings).detach(), full, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["SGR", "SAF"])
def test_published_formulation_agrees_in_float32(name: str) -> None:
    """One caption at a time, as timed by the benchmarks: scores and every gradient of the whole network."""
    found = []
    for compute in (published.batch_scores, lambda m, b: m.score(m.embed(b))):
        matcher = make_matcher(name).float().train()
        batch = make_batch()
        sims = compute(matcher, dataclasses.replace(batch, regions=batch.regions.float()))
        sims.square().sum().backward()
        found.append((sims.detach(), [torch.zeros_like(p) if p.grad is None else p.grad for p in matcher.parameters()]))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-5)
    scale = max(float(g.abs().max()) for g in found[0][1])
    for mine, theirs in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", SIMILARITIES)
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


@pytest.mark.parametrize("name", SIMILARITIES)
def test_eval_scores_of_a_pair_do_not_depend_on_its_batch(name: str) -> None:
    module, (regions, words, lengths) = make(name), draw()
    whole = score(module, (regions, words, lengths))
    for i in range(len(regions)):
        for j, length in enumerate(lengths):
            single = score(module, (regions[i : i + 1], words[j : j + 1, :length], lengths[j : j + 1]))
            torch.testing.assert_close(single, whole[i : i + 1, j : j + 1])


@pytest.mark.parametrize("name", SIMILARITIES)
def test_only_saf_in_training_couples_pairs(name: str) -> None:
    """Whoever says that pairs are apart must have them apart: the trainer then scores chosen pairs alone."""
    module = make(name).train()
    assert module.couples_pairs == (name == "SAF")
    images, captions = sides(module, draw())
    whole, fewer = module(images, captions), module(images[torch.tensor([0, 1])], captions)
    assert torch.allclose(whole[:2], fewer) != module.couples_pairs


@pytest.mark.parametrize("first_only", [False, True])
def test_merged_query_and_key_maps_are_the_separate_ones(first_only: bool) -> None:
    torch.manual_seed(0)
    step = GraphReasoning(5).double()
    randomise(step)
    nodes = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    edges = torch.softmax(step.graph_query_w(nodes) @ step.graph_key_w(nodes).transpose(1, 2), dim=-1)
    twin = torch.relu(step.sim_graph_w(edges @ nodes))
    there = torch.ones(3, 1, 4, dtype=torch.bool)
    assert twin.abs().max() > 0.1
    found = reason(nodes, step.weights(torch.float64), there, first_only=first_only)
    assert_same(found, twin[:, :1] if first_only else twin, [nodes, *step.parameters()])
    with torch.no_grad():
        found = reason(nodes, step.weights(torch.float64), there, first_only=first_only)
    torch.testing.assert_close(found, twin[:, :1] if first_only else twin)
