"""Region and caption encoders against their slow twins."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.encoders import CaptionEncoder, RegionEncoder
from tests import reference
from tests.models.networks import assert_same, make_batch, make_matcher, tensors_of


@pytest.mark.parametrize("normalise", [True, False])
def test_region_encoder_is_its_twin(normalise: bool) -> None:
    torch.manual_seed(0)
    encoder = RegionEncoder(5, 4, normalise=normalise).double()
    torch.nn.init.normal_(encoder.fc.bias)
    regions = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    twin = reference.encode_image(tensors_of(encoder), regions, normalise)
    assert_same(encoder(regions), twin, [regions, *encoder.parameters()])


def test_region_encoder_starts_with_xavier_weights_and_no_bias() -> None:
    encoder = RegionEncoder(30, 20)
    bound = (6 / 50) ** 0.5
    assert 0.95 * bound < encoder.fc.weight.abs().max() <= bound
    assert not encoder.fc.bias.any()


@pytest.mark.parametrize("bi_gru", [True, False])
@pytest.mark.parametrize(("num_layers", "normalise"), [(1, True), (1, False), (2, True)])
def test_caption_encoder_is_its_twin(bi_gru: bool, num_layers: int, normalise: bool) -> None:
    torch.manual_seed(0)
    encoder = CaptionEncoder(11, 3, 4, num_layers=num_layers, bi_gru=bi_gru, dropout=0.0, normalise=normalise).double()
    batch = make_batch((3, 1, 5))
    twin = reference.encode_captions(tensors_of(encoder), batch.tokens, batch.lengths, normalise)
    assert_same(encoder(batch.tokens, batch.lengths), twin, encoder.parameters())


@pytest.mark.parametrize("lengths", [(4, 4, 4), (1,), (6,), (1, 1), (2, 7, 1, 7)])
def test_caption_encoder_is_its_twin_for_any_lengths(lengths: tuple[int, ...]) -> None:
    """With tokens wider than the longest caption, and without gradients too."""
    torch.manual_seed(0)
    encoder = CaptionEncoder(11, 3, 4, num_layers=2, dropout=0.0).double()
    batch = make_batch(lengths, width=9)
    twin = reference.encode_captions(tensors_of(encoder), batch.tokens, batch.lengths)
    assert_same(encoder(batch.tokens, batch.lengths), twin, encoder.parameters())
    with torch.no_grad():
        torch.testing.assert_close(encoder(batch.tokens, batch.lengths), twin, rtol=1e-9, atol=1e-9)


def test_dropout_is_drawn_for_the_padded_word_vectors() -> None:
    """The same seed drops the same numbers as the plain formulation, padding included."""
    encoder = CaptionEncoder(11, 3, 4, dropout=0.5)
    batch = make_batch((3, 1, 5), width=6)
    torch.manual_seed(0)
    words = encoder(batch.tokens, batch.lengths)
    torch.manual_seed(0)
    vectors = encoder.dropout(encoder.embed(batch.tokens))
    packed = pack_padded_sequence(vectors, batch.lengths, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(encoder.cap_rnn(packed)[0], batch_first=True, total_length=6)
    twin = reference.l2norm((states[:, :, :4] + states[:, :, 4:]) / 2, dim=2)
    torch.testing.assert_close(words, twin)


def test_words_beyond_the_end_are_zero_and_do_not_matter() -> None:
    encoder = CaptionEncoder(11, 3, 4, dropout=0.0)
    batch = make_batch((3, 1, 5))
    words = encoder(batch.tokens, batch.lengths)
    wider = torch.cat([batch.tokens, torch.zeros(3, 4, dtype=torch.long)], dim=1)
    for row, length in enumerate(batch.lengths):
        assert not words[row, length:].any()
        assert words[row, :length].norm(dim=1).allclose(torch.ones(int(length)))
        wider[row, length:] = 7  # garbage
    again = encoder(wider, batch.lengths)
    assert again.shape == (3, 9, 4) and torch.equal(again[:, :5], words) and not again[:, 5:].any()


def test_word_dropout_acts_in_training_only() -> None:
    encoder = CaptionEncoder(11, 3, 4, dropout=0.5)
    batch = make_batch()
    torch.manual_seed(0)
    assert not torch.equal(encoder(batch.tokens, batch.lengths), encoder(batch.tokens, batch.lengths))
    encoder.eval()
    assert torch.equal(encoder(batch.tokens, batch.lengths), encoder(batch.tokens, batch.lengths))


def test_pooled_vectors_are_plain_means_over_regions_and_valid_words() -> None:
    matcher, batch = make_matcher("VSE"), make_batch()
    embeddings = matcher.embed(batch)
    regions, words = matcher.region_encoder(batch.regions), matcher.caption_encoder(batch.tokens, batch.lengths)
    captions = torch.stack([w[:length].mean(dim=0) for w, length in zip(words, batch.lengths, strict=True)])
    assert_same(embeddings.image_global, regions.mean(dim=1), matcher.parameters())
    assert_same(embeddings.caption_global, captions, matcher.parameters())
    cut = embeddings.detach()
    tensors = (cut.image_global, cut.caption_global, cut.images.regions, cut.captions.words, cut.captions.pooled)
    assert not any(t.requires_grad for t in tensors)
