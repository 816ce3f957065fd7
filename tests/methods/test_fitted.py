"""What a fit leaves behind: components that can be drawn and stored."""

from __future__ import annotations

import io

import numpy as np
import pytest
from scipy import stats

from methods.blocks.beta import BetaMixture
from methods.blocks.mixture import Fitted, clean_probability, fit, probability_under
from methods.blocks.normal import NormalMixture


def signal(low: float = -2.0, high: float = 5.0) -> np.ndarray:
    random = np.random.RandomState(0)
    x = np.concatenate([random.beta(2, 12, 600), random.beta(9, 4, 400)])
    return low + (high - low) * x


@pytest.mark.parametrize("fit_type", ["gmm", "bmm"])
def test_densities_are_those_of_the_textbook(fit_type: str) -> None:
    """Weight times density on the scaled axis, the component of lower mean first, per unit of the signal."""
    found = fit(signal(), fit_type)
    assert found is not None
    x, mixture = np.linspace(found.low, found.high, 301)[1:-1], found.mixture
    scaled = (x - found.low) / (found.high - found.low)
    if isinstance(mixture, NormalMixture):
        parts = [stats.norm(m, v**0.5) for m, v in zip(mixture.means, mixture.variances, strict=True)]
    else:
        parts = [stats.beta(a, b) for a, b in zip(mixture.alphas, mixture.betas, strict=True)]
    order = sorted((0, 1), key=lambda k: parts[k].mean())
    expected = [mixture.weights[k] * parts[k].pdf(scaled) / (found.high - found.low) for k in order]
    np.testing.assert_allclose(found.density(x), expected, rtol=1e-6, atol=1e-12)
    assert np.isfinite(found.density(np.array([found.low, found.high]))).all()


@pytest.mark.parametrize("fit_type", ["gmm", "bmm"])
def test_the_posterior_is_the_ratio_of_the_densities(fit_type: str) -> None:
    values = signal()
    found = fit(values, fit_type)
    assert found is not None
    inner = values[(values > np.quantile(values, 0.01)) & (values < np.quantile(values, 0.99))]
    clean, noisy = found.density(inner)
    everywhere = dict(zip(values.tolist(), clean_probability(values, fit_type).tolist(), strict=True))
    np.testing.assert_allclose(clean / (clean + noisy), [everywhere[v] for v in inner.tolist()], atol=1e-6)


def test_the_clean_component_comes_first_wherever_it_is_kept() -> None:
    weights, x = np.array([0.3, 0.7]), np.linspace(0.05, 0.95, 19)
    betas = BetaMixture(np.array([8.0, 2.0]), np.array([2.0, 8.0]), weights)
    normals = NormalMixture(np.array([0.8, 0.2]), np.array([0.01, 0.02]), weights)
    for mixture in (betas, normals):
        clean, noisy = mixture.density(x)
        assert x[clean.argmax()] < 0.3 and x[noisy.argmax()] > 0.7 and clean.sum() > noisy.sum()


@pytest.mark.parametrize("fit_type", ["gmm", "bmm"])
def test_it_survives_a_file(fit_type: str) -> None:
    found = fit(signal(), fit_type)
    assert found is not None
    file = io.BytesIO()
    np.savez(file, **found.as_arrays(), signal=signal())  # type: ignore[arg-type]
    file.seek(0)
    again = Fitted.from_arrays(dict(np.load(file, allow_pickle=False)))
    assert again is not None and (again.low, again.high) == (found.low, found.high)
    x = np.linspace(-2, 5, 50)
    np.testing.assert_array_equal(again.density(x), found.density(x))
    assert Fitted.from_arrays({"signal": x}) is None


def test_equal_numbers_have_no_components() -> None:
    assert fit(np.full(5, 3.0), "gmm") is None
    np.testing.assert_array_equal(probability_under(None, np.full(5, 3.0), monotone=True), np.ones(5))
