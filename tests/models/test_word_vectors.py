"""Pretrained vectors in the caption encoder."""

from __future__ import annotations

import pytest
import torch

from models.encoders import CaptionEncoder


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


@pytest.mark.parametrize(("rows", "given"), [((5, 3), 5), ((6, 2), 6), ((6, 3), 5)])
def test_other_shapes_are_our_fault(rows: tuple[int, int], given: int) -> None:
    with pytest.raises(AssertionError):
        fresh().set_word_vectors(torch.ones(rows), torch.ones(given, dtype=torch.bool))
