"""Region and caption encoders against their slow twins, dropout, pretrained word vectors."""

from __future__ import annotations

import pytest
import torch

from models.encoders import CaptionEncoder, Dropout, RegionEncoder
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


def test_word_dropout_is_of_word_vectors_and_acts_in_training_only() -> None:
    encoder, batch = CaptionEncoder(11, 3, 4, dropout=0.5), make_batch()
    mask = encoder.dropout_mask(batch.tokens)
    assert mask is not None and mask.shape == (*batch.tokens.shape, 3) and mask.unique().tolist() == [0.0, 2.0]
    dropped, whole = encoder(batch.tokens, batch.lengths, mask), encoder(batch.tokens, batch.lengths)
    assert not torch.equal(dropped, whole)
    torch.testing.assert_close(encoder(batch.tokens, batch.lengths, torch.ones_like(mask)), whole)
    assert encoder.eval().dropout_mask(batch.tokens) is None


@pytest.mark.parametrize("encodes", ["embed", "encode_captions"])
def test_a_matcher_drops_word_vectors_in_training(encodes: str) -> None:
    matcher, batch = make_matcher("VSE", dropout=0.5), make_batch()

    def words() -> torch.Tensor:
        if encodes == "embed":
            return matcher.embed(batch).captions.words
        return matcher.encode_captions(batch.tokens, batch.lengths).words

    assert not torch.equal(words(), words())
    matcher.eval()
    assert torch.equal(words(), words())


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


# -- dropout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.4, 0.9])
def test_share_scale_and_gradient(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 401, requires_grad=True)  # not a multiple of four
    y = Dropout(p)(x)
    kept = y.detach() > 0
    assert float(kept.float().mean()) == pytest.approx(1 - p, abs=0.005)
    torch.testing.assert_close(y.detach()[kept].unique(), torch.tensor([1 / (1 - round(p * 65536) / 65536)]))
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())


def test_elements_are_independent() -> None:
    """Each of the four that share a random number has the right share, and no two go together."""
    torch.manual_seed(0)
    kept = (Dropout(0.4)(torch.ones(40_000, 4)) > 0).double()
    torch.testing.assert_close(kept.mean(dim=0), torch.full((4,), 0.6, dtype=torch.float64), rtol=0, atol=0.01)
    correlation = torch.corrcoef(torch.cat([kept.t(), kept.roll(1, dims=0).t()]))
    assert (correlation - torch.eye(8, dtype=torch.float64)).abs().max() < 0.03


def test_evaluation_and_zero_drop_nothing() -> None:
    x = torch.randn(3, 4)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x


def test_same_seed_same_mask() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(Dropout(0.4)(torch.ones(50)))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


# -- pretrained vectors ------------------------------------------------------------------------------------------


def fresh() -> CaptionEncoder:
    torch.manual_seed(0)
    return CaptionEncoder(6, 3, 4)


def test_given_words_start_from_their_vectors_and_others_as_before() -> None:
    encoder, twin = fresh(), fresh()
    state = torch.get_rng_state()
    rows = torch.arange(18, dtype=torch.float64).view(6, 3)
    encoder.set_word_vectors(rows, torch.tensor([False, True, False, False, True, False]))
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn: the networks after this one start as without"
    for word in range(6):
        expected = rows[word].float() if word in (1, 4) else twin.embed.weight[word]
        assert torch.equal(encoder.embed.weight[word], expected)
    assert encoder.embed.weight.dtype == torch.float32
    others = [name for name, _ in encoder.named_parameters() if name != "embed.weight"]
    assert all(torch.equal(encoder.get_parameter(name), twin.get_parameter(name)) for name in others)


def test_given_words_are_trained_further() -> None:
    encoder = fresh()
    encoder.set_word_vectors(torch.ones(6, 3), torch.ones(6, dtype=torch.bool))
    encoder(torch.tensor([[1, 2]]), torch.tensor([2]))[..., 0].sum().backward()
    assert encoder.embed.weight.requires_grad and encoder.embed.weight.grad is not None
    assert encoder.embed.weight.grad[1].any() and not encoder.embed.weight.grad[0].any()
