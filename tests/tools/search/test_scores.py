"""Keys: their products are the scores of VSE and GPO, and estimate those of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.ensemble import similarities
from models.keys import fit_estimate, fit_keys
from models.sgraf import SGR
from models.similarity import CrossAttention, EncodedCaptions, EncodedImages
from runtime.errors import InputError
from tests.models.splits import small_matcher, small_split
from tools.search.scores import (
    EncodedFile,
    caption_keys,
    fit_networks,
    image_keys,
    images_from,
    score_listed,
)

CPU = torch.device("cpu")


def products(matchers: list, split: object) -> np.ndarray:
    """Return the products of all keys, (I, C)."""
    networks = fit_networks(matchers, split, CPU)  # type: ignore[arg-type]
    images = np.concatenate([block for _, block in image_keys(networks, split, CPU)])  # type: ignore[arg-type]
    captions = np.empty((len(split.lengths), images.shape[1]), dtype=np.float32)  # type: ignore[attr-defined]
    for numbers, block in caption_keys(networks, split, CPU):  # type: ignore[arg-type]
        captions[numbers] = block
    return images @ captions.T


@pytest.mark.parametrize("name", ["VSE", "GPO"])
def test_products_are_the_mean_of_exact_scores(name: str, tmp_path: Path) -> None:
    split = small_split(tmp_path)
    matchers = [small_matcher(split, name, seed=seed) for seed in (0, 1)]
    mean = sum(similarities(matcher, split, CPU) for matcher in matchers) / 2
    np.testing.assert_allclose(products(matchers, split), mean, rtol=1e-5, atol=1e-6)


class Metric(CrossAttention):
    """A similarity that is what the estimate supposes."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def score_pairs(self, images: EncodedImages, captions: EncodedCaptions, image: Tensor, caption: Tensor) -> Tensor:
        return -1 + (images.pooled[image] - captions.pooled[caption]).square() @ self.weights


class SigmoidMetric(SGR):
    """The same, ending in a sigmoid as SGR does."""

    def __init__(self, weights: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.metric = Metric(weights)

    def score_pairs(self, images: EncodedImages, captions: EncodedCaptions, image: Tensor, caption: Tensor) -> Tensor:
        return torch.sigmoid(self.metric.score_pairs(images, captions, image, caption))


@pytest.mark.parametrize("kind", [Metric, SigmoidMetric])
def test_a_weighted_distance_is_found(kind: type[Metric] | type[SigmoidMetric]) -> None:
    """Weights of both signs: neither a cosine nor a plain distance would order these pairs."""
    random = torch.Generator().manual_seed(0)
    weights = 0.3 * torch.randn(6, generator=random)
    images = EncodedImages(torch.randn(40, 3, 6, generator=random), torch.randn(40, 6, generator=random))
    words, pooled = torch.randn(50, 4, 6, generator=random), torch.randn(50, 6, generator=random)
    captions = EncodedCaptions(words, torch.full((50,), 4), pooled)
    true = -1 + (images.pooled[:, None] - pooled).square() @ weights
    keys = fit_estimate(kind(weights), images, captions, random)
    found = keys.of_images(images) @ keys.of_captions(captions).t()
    assert np.corrcoef(found.flatten(), true.flatten())[0, 1] > 0.95
    assert 0.6 < found.std() / true.std() < 1.1, "the ridge shrinks a little"


def test_the_estimate_sees_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.keys.SAMPLED", 5)
    monkeypatch.setattr("models.keys.fit_estimate", lambda similarity, images, captions, random: (images, captions))
    split = small_split(tmp_path)
    matcher = small_matcher(split, "SGR")
    images, captions = fit_keys(matcher, split, CPU)  # type: ignore[misc]
    assert len(images.regions) == len(captions.lengths) == 5
    with torch.no_grad():
        whole = matcher.encode_images(split.read_images(np.arange(7)))
    places = [int((whole.pooled - own).abs().sum(dim=1).argmin()) for own in images.pooled]
    assert places == sorted(set(places)) != list(range(5)), "drawn, and each once"
    torch.testing.assert_close(images.pooled, whole.pooled[places])


def test_vectors_that_are_all_alike_give_an_estimate() -> None:
    """A network that encodes everything alike: nothing is divided by zero."""
    images = EncodedImages(torch.ones(4, 2, 3), torch.ones(4, 3))
    captions = EncodedCaptions(torch.ones(5, 2, 3), torch.full((5,), 2), torch.zeros(5, 3))
    keys = fit_estimate(Metric(torch.ones(3)), images, captions, torch.Generator().manual_seed(0))
    torch.testing.assert_close(keys.of_images(images) @ keys.of_captions(captions).t(), torch.full((4, 5), 2.0))


def test_a_diverged_network_is_told(tmp_path: Path) -> None:
    split = small_split(tmp_path)
    matcher = small_matcher(split, "SGR")
    with torch.no_grad():
        matcher.region_encoder.fc.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="diverged"):
        fit_networks([matcher], split, CPU)


@pytest.mark.parametrize(("name", "least"), [("SGR", 0.8), ("SAF", 0.8), ("SCAN_t2i", 0.5), ("SCAN_i2t", 0.5)])
def test_estimates_go_with_the_scores_or_the_logits_of_sigmoids(name: str, least: float, tmp_path: Path) -> None:
    split = small_split(tmp_path, images=30)
    matcher = small_matcher(split, name)
    estimate, real = products([matcher], split), similarities(matcher, split, CPU)
    shown = real if name.startswith("SCAN") else np.log(real / (1 - real))
    assert np.corrcoef(estimate.ravel(), shown.ravel())[0, 1] > least


def test_keys_from_a_place_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.ensemble.IMAGE_BLOCK", 3)
    monkeypatch.setattr("models.ensemble.CAPTION_BLOCK", 4)
    split = small_split(tmp_path)
    networks = fit_networks([small_matcher(split, "VSE")], split, CPU)
    for keys, total in ((image_keys, split.num_images), (caption_keys, len(split))):
        whole, rest = (np.concatenate([n for n, _ in keys(networks, split, CPU, start)]) for start in (0, 5))
        assert sorted(whole.tolist()) == list(range(total)) and rest.tolist() == whole[5:].tolist()


@pytest.mark.parametrize("name", ["VSE", "SGR", "SCAN_i2t"])
@pytest.mark.parametrize("pairs_at_once", [3, 4096])
def test_listed_scores_are_those_of_the_matrix(
    name: str, pairs_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.search.scores.PAIRS_AT_ONCE", pairs_at_once)
    monkeypatch.setattr("tools.search.scores.CAPTIONS_AT_ONCE", 4)
    split = small_split(tmp_path)
    matchers = [small_matcher(split, name, seed=seed) for seed in (0, 1)]
    mean = sum(similarities(matcher, split, CPU) for matcher in matchers) / 2
    random = np.random.default_rng(0)
    image, caption = random.integers(0, 7, 60), random.integers(0, 35, 60)
    on_demand = [images_from(matcher, split, CPU) for matcher in matchers]
    in_files = [EncodedFile(tmp_path, str(k), matcher, split, CPU) for k, matcher in enumerate(matchers)]
    for images in (on_demand, in_files):
        told: list[int] = []
        scores = score_listed(matchers, images, split, CPU, (image, caption), told.append)
        np.testing.assert_allclose(scores, mean[image, caption], rtol=1e-4, atol=1e-5)
        assert sum(told) == 60
