"""`--precision` and `--compile`: what is chosen, what is refused, and that scores stay near."""

from __future__ import annotations

import pytest
import torch

from models import precision
from models.precision import ScoringConfig, prepare_scoring
from runtime.errors import InputError
from tests.models.networks import TILED, make_batch, make_matcher

CPU = torch.device("cpu")


@pytest.mark.parametrize(("choice", "dtype"), [("fp32", None), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("name", TILED)
def test_a_named_precision_is_taken(
    name: str, choice: str, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_is_supported", lambda device: True)
    matcher = make_matcher(name).float()
    assert prepare_scoring([matcher], ScoringConfig(precision=choice), CPU) == []
    assert matcher.similarity.scoring_dtype == dtype


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", TILED)
def test_lower_precision_is_near_and_never_in_gradients(name: str, training: bool) -> None:
    matcher, batch = make_matcher(name).train(training), make_batch()
    embeddings = matcher.embed(batch)
    with torch.no_grad():
        full = matcher.score(embeddings)
        matcher.similarity.scoring_dtype = torch.bfloat16
        low = matcher.score(embeddings)
        assert torch.equal(matcher.similarity(embeddings.images, embeddings.captions, exact=True), full)
    assert low.dtype == full.dtype and 0 < (low - full).abs().max() < 0.05
    torch.testing.assert_close(matcher.score(embeddings).detach(), full, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("seconds", "dtype"), [([2.0, 1.0], torch.bfloat16), ([1.0, 2.0], None)])
def test_auto_takes_what_is_faster(
    seconds: list[float], dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_is_supported", lambda device: True)
    monkeypatch.setattr(precision, "_trial", lambda similarity, device, tried: seconds[tried is not None])
    matchers = [make_matcher(seed=k).float() for k in range(2)]
    (line,) = prepare_scoring(matchers, ScoringConfig(precision="auto"), CPU)
    assert all(m.similarity.scoring_dtype == dtype for m in matchers)
    assert line.startswith("scoring in bf16" if dtype else "scoring in fp32")


def test_auto_measures_and_leaves_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bf16_is_supported", lambda device: True)
    matcher = make_matcher("SAF").float().train()
    before = {name: b.clone() for name, b in matcher.named_buffers()}
    assert len(prepare_scoring([matcher], ScoringConfig(precision="auto"), CPU)) == 1
    assert matcher.training and matcher.similarity.training
    assert all(torch.equal(b, before[name]) for name, b in matcher.named_buffers())


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bf16_is_supported", lambda device: False)
    with pytest.raises(InputError, match="--precision bf16: cpu has no bfloat16 products; use fp32, or auto"):
        prepare_scoring([make_matcher()], ScoringConfig(precision="bf16"), CPU)
    assert prepare_scoring([make_matcher().float()], ScoringConfig(precision="auto"), CPU) == []
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="--compile needs a C"):
        prepare_scoring([make_matcher()], ScoringConfig(compile=True), CPU)
    with pytest.raises(InputError, match="--precision 'half' is unknown; known: fp32, bf16, auto"):
        ScoringConfig(precision="half")


@pytest.mark.parametrize("name", ["VSE", "GPO"])
def test_one_product_needs_no_choice(name: str) -> None:
    assert prepare_scoring([make_matcher(name)], ScoringConfig(precision="auto"), CPU) == []
