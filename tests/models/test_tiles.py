"""Every wanted pair lies in exactly one tile, tiles keep to their size, and gradients touch what they must."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import tiles as module
from models.tiles import Tile, all_tiles, tile_shape, tiles_where
from tests.models.networks import dense_scores, gradients, make_batch, make_matcher

CPU = torch.device("cpu")


def counted(tiles: Iterable[Tile], lengths: Tensor, num_images: int, shape: tuple[int, int]) -> Tensor:
    """Return how often each pair is scored, (I, C), and check each tile's length and size."""
    times = torch.zeros(num_images, len(lengths), dtype=torch.long)
    for tile in tiles:
        own = lengths[tile.captions]
        assert own.max() == tile.length and (tile.lengths is None or torch.equal(tile.lengths, own))
        assert tile.lengths is not None or (own == tile.length).all()
        hits = torch.zeros_like(times)
        hits[tile.index(CPU)] += 1
        times += hits
        if not tile.is_paired:
            assert len(tile.captions) * tile.length <= 1.5 * shape[1] + tile.length
            assert int(hits.any(dim=1).sum()) <= shape[0]
    return times


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 20), st.integers(1, 7), st.integers(1, 30))
def test_all_tiles_cover_every_pair_once(lengths: list[int], images: int, tile_images: int, tile_words: int) -> None:
    shape = (tile_images, tile_words)
    for size in (1, 1000, module.NO_PADDING):
        found = list(all_tiles(torch.tensor(lengths), images, shape, size))
        assert (counted(found, torch.tensor(lengths), images, shape) == 1).all()
        assert size < module.NO_PADDING or all(tile.lengths is None for tile in found)


def test_lengths_are_put_together_where_padding_is_cheaper_than_a_tile() -> None:
    lengths = torch.tensor([3, 4, 9, 4, 3])
    few = list(all_tiles(lengths, 10, (64, 64), module.TILE_COST // 30))
    assert [t.captions.tolist() for t in few] == [[0, 4, 1, 3], [2]], "20 words of padding are cheap, 220 are not"
    (one,) = all_tiles(lengths, 10, (64, 64), 1)
    mask = one.node_mask(CPU)
    assert mask is not None and mask.sum(dim=1).tolist() == [4, 4, 5, 5, 10] and mask[:, 0].all()
    chosen = torch.tensor([False, True, False, True, False])
    assert [t.captions.tolist() for t in all_tiles(lengths, 10, (64, 64), 1, chosen)] == [[1, 3]]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 12), st.sampled_from([0.0, 0.05, 0.4, 0.9, 1.0]))
def test_wanted_pairs_are_covered_once_and_no_others(seed: int, images: int, captions: int, share: float) -> None:
    random = torch.Generator().manual_seed(seed)
    wanted = torch.rand(images, captions, generator=random) < share
    wanted[:, torch.rand(captions, generator=random) < 0.3] = wanted[
        :, :1
    ].clone()  # some captions want the same images
    lengths = torch.randint(1, 4, (captions,), generator=random)
    times = counted(tiles_where(wanted, lengths, (5, 6), 2 * module.TILE_COST), lengths, images, (5, 6))
    assert torch.equal(times, wanted.long()), "at such a size not one pair may be wasted"
    cheap = counted(tiles_where(wanted, lengths, (5, 6), 1), lengths, images, (5, 6))
    assert (cheap[wanted] == 1).all() and (cheap <= 1).all()
    filled = list(tiles_where(wanted, lengths, (40, 6), 2 * module.TILE_COST, multiple=8))
    assert (counted(filled, lengths, images, (40, 6))[wanted] == 1).all()
    rows = [torch.arange(images)[tile.images] for tile in filled if not tile.is_paired]
    assert all(len(own) % 8 == 0 or len(own) == images for own in rows)


def test_captions_that_want_the_same_images_share_tiles() -> None:
    wanted = torch.zeros(20, 6, dtype=torch.bool)
    wanted[:10, :4] = True
    lengths = torch.full((6,), 3)
    (tile,) = tiles_where(wanted, lengths, (64, 64), module.TILE_COST)
    assert tile.captions.tolist() == [0, 1, 2, 3] and tile.images == slice(0, 10)
    wanted[3, 1] = False
    apart = list(tiles_where(wanted, lengths, (64, 64), module.TILE_COST))
    assert [t.captions.tolist() for t in apart] == [[0, 2, 3], [1]]
    (tile,) = tiles_where(wanted, lengths, (64, 64), module.TILE_COST // 3)
    assert sorted(tile.captions.tolist()) == [0, 1, 2, 3], "one wasted pair is cheaper than a tile"


def test_a_tile_grows_as_vectors_shrink() -> None:
    assert tile_shape(128, 1024, CPU) == (64, 64)
    assert tile_shape(5000, 1024, CPU) == (64, 64)
    images, words = tile_shape(48, 128, CPU)
    assert images == 48 and 600 < words < 700
    assert tile_shape(3, 10**9, CPU) == (3, 64)


@pytest.mark.parametrize("name", ["SGR", "SAF"])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_few_scores_are_those_of_a_dense_graph(
    name: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The derivative scores again only what has gradient; the dense graph knows of no tiles."""
    monkeypatch.setattr(module, "COUPLED_NUMBERS", 0)
    lengths = (3, 2, 5, 3, 3, 2, 3, 1, 4, 3)
    matcher, batch = make_matcher(name).train(training), make_batch(lengths)
    embeddings = matcher.embed(batch)
    weights = torch.zeros(len(lengths), len(lengths), dtype=torch.float64)
    weights[0, 1] = weights[3, 3] = weights[9, 3] = 1.0
    weights[:, 6] = torch.linspace(-1, 1, len(lengths))
    inputs = [p for p in matcher.parameters() if p.requires_grad]
    ours, dense = matcher.score(embeddings, sparse=True), dense_scores(matcher, embeddings)
    torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-12)
    pairs = zip(gradients((ours * weights).sum(), inputs), gradients((dense * weights).sum(), inputs), strict=True)
    found = [(mine, theirs) for mine, theirs in pairs]
    assert max(float(theirs.abs().max()) for _, theirs in found) > 1e-3
    for mine, theirs in found:
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_only_touched_pairs_are_scored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    matcher, batch = make_matcher("SGR").train(), make_batch((3,) * 12)
    sims = matcher.score(matcher.embed(batch), sparse=True)
    scored: list[int] = []
    original = type(matcher.similarity).score_tile

    def count(self: object, *tensors: Tensor, **named: Tensor) -> Tensor:
        scores = original(self, *tensors, **named)  # type: ignore[arg-type]
        scored.append(scores.numel())
        return scores

    monkeypatch.setattr(type(matcher.similarity), "score_tile", count)
    (sims.diagonal().sum() + sims[0, 5]).backward()
    assert sum(scored) == 13


def test_no_more_than_a_tile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the graph of B^2 scores keeps alive does not grow with the number of tiles."""
    kept = []
    for shape in ((12, 100), (2, 3)):
        monkeypatch.setattr(module, "tile_shape", lambda *_, shape=shape: shape)
        matcher, batch = make_matcher("SGR").train(), make_batch((3,) * 12)
        embeddings = matcher.embed(batch)
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            matcher.score(embeddings, sparse=True)
        kept.append(sum(sizes))
    assert kept[0] == kept[1] < 12 * 12 * 3 * 6, "activations of all pairs are kept"
