"""Mixtures over a division signal: slow twins, chunks, monotone posteriors, any finite input, errors, the division."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.mixture import GaussianMixture

from methods.blocks.mixture import (
    FITS,
    TINY,
    BetaMixture,
    Fitted,
    NormalMixture,
    clean_probability,
    divide,
    fit,
    fit_bmm,
    min_max,
    probability_under,
)
from tests import reference

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SIGNALS = st.one_of(
    st.lists(FINITE, min_size=1, max_size=30),
    st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    st.lists(st.sampled_from([0.0, 5e-324, 1e-300, 1e-9, 0.5, 1.0, 1e308, -1e308]), min_size=1, max_size=12),
)


def two_modes(size: int = 300, seed: int = 0, share: float = 0.4) -> np.ndarray:
    """Draw losses of two overlapping kinds."""
    random = np.random.RandomState(seed)
    noisy = random.rand(size) < share
    return np.where(noisy, random.beta(6, 3, size), random.beta(2, 7, size))


def adversarial() -> dict[str, np.ndarray]:
    """Name signals whose published posteriors turn round, leap, or have an empty or pointed component."""
    random, other = np.random.RandomState(0), np.random.RandomState(0)
    return {
        "narrow clean mode, broad noisy one": np.concatenate([0.3 + 0.01 * random.randn(200), random.rand(200)]),
        "narrow noisy mode, broad clean one": np.concatenate([0.7 + 0.01 * random.randn(200), random.rand(200)]),
        "narrow clean mode, few broad noisy": np.concatenate(
            [0.3 + 0.03 * other.randn(400), 0.6 + 0.2 * other.randn(100), [0.0]]
        ),
        "mass at both ends": np.repeat([0.0, 1.0, 0.5], [200, 200, 3]),
        "one far outlier": np.concatenate([random.rand(100) * 1e-3, [1.0]]),
        "outliers on both sides": np.concatenate([[-5.0], 0.01 * random.randn(100), [5.0]]),
        "heavy tail": random.standard_cauchy(300),
        "two narrow modes": np.concatenate([0.2 + 0.02 * other.randn(200), 0.8 + 0.03 * other.randn(100)]),
        "two values": np.repeat([0.2, 0.8], [5, 50]),
        "two pairs": np.array([1.0, 3.0]),
        "three pairs": np.array([1.0, 3.0, 3.1]),
        "a line": np.linspace(0, 1, 101),
        "mass at zero": np.concatenate([np.zeros(150), random.beta(5, 2, 150)]),
        "mass at one": np.concatenate([np.ones(150), random.beta(2, 5, 150)]),
    }


def assert_non_increasing(signal: np.ndarray, probability: np.ndarray) -> None:
    """Assert that a larger signal never has a larger probability (but for rounding)."""
    in_order = probability[np.argsort(signal, kind="stable")]
    assert np.diff(in_order).max(initial=0.0) <= 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_bmm_is_its_twin(seed: int) -> None:
    loss = two_modes(seed=seed, share=0.2 + 0.2 * seed) * 3 + 1
    twin, mixture = reference.beta_mixture(loss), fit_bmm(min_max(loss))
    for name in ("alphas", "betas", "weights"):
        np.testing.assert_allclose(getattr(mixture, name), twin[name], rtol=1e-8)
    ours, x = clean_probability(loss, "bmm"), min_max(loss)
    inner = (x > 0) & (x < 1)  # at the ends densities may be infinite: 0 / inf is 0 as published, the twin clips x
    np.testing.assert_allclose(ours[inner], twin["clean_probability"][inner], rtol=0, atol=1e-8)
    assert inner.sum() == len(loss) - 2 and np.isfinite(ours).all()


@pytest.mark.parametrize("name", ["two narrow modes", "outliers on both sides", "heavy tail"])
def test_densities_below_the_bound_count_as_the_bound(name: str) -> None:
    signal = adversarial()[name]
    twin, mixture = reference.beta_mixture(signal), fit_bmm(min_max(signal))
    for parameter in ("alphas", "betas", "weights"):
        np.testing.assert_allclose(getattr(mixture, parameter), twin[parameter], rtol=1e-8)


def test_the_order_of_pairs_does_not_matter() -> None:
    signal = two_modes()
    backwards = clean_probability(signal[::-1], "bmm")
    np.testing.assert_allclose(backwards[::-1], clean_probability(signal, "bmm"), rtol=0, atol=1e-10)


def test_a_beta_component_without_pairs_or_spread_stays() -> None:
    """Of all pairs the second has mean 0.5 and variance 0.05: alpha = beta = 0.5 (0.25 / 0.05 - 1) = 2."""
    start, spread = BetaMixture(np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.5, 0.5])), 0.05**0.5
    x = 0.5 + np.array([-spread, spread, -spread, spread])
    with np.errstate(all="raise"):
        left = start.refitted(np.stack([np.zeros(4), np.ones(4)]), x)
    np.testing.assert_allclose([left.alphas, left.betas, left.weights], [[1, 2], [2, 2], [TINY, 1]], rtol=1e-12)
    point = start.refitted(np.full((2, 4), 0.5), np.full(4, 0.5))
    np.testing.assert_allclose([point.alphas, point.betas, point.weights], [[1, 2], [2, 1], [0.5, 0.5]])


def test_gmm_is_ncrs() -> None:
    """Ten steps at most, a tolerance of 0.01 and a variance of at least 5e-4, in scikit-learn's own words."""
    x = min_max(two_modes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(x[:, None])
    expected = fitted.predict_proba(x[:, None])[:, fitted.means_.ravel().argmin()]
    np.testing.assert_allclose(clean_probability(x, "gmm"), expected, rtol=0, atol=1e-9)
    core = (x > fitted.means_.min()) & (x < fitted.means_.max())
    np.testing.assert_allclose(clean_probability(x, "gmm", monotone=True)[core], expected[core], rtol=0, atol=0.02)


@pytest.mark.parametrize("fit_type", FITS)
@pytest.mark.parametrize("name", adversarial())
def test_monotone_probability_never_rises_with_the_signal(name: str, fit_type: str) -> None:
    signal = adversarial()[name]
    probability = clean_probability(signal, fit_type, monotone=True)
    assert np.isfinite(probability).all() and (probability >= 0).all() and (probability <= 1).all()
    assert_non_increasing(signal, probability)
    assert probability[signal.argmin()] >= probability[signal.argmax()]


@pytest.mark.parametrize("fit_type", FITS)
def test_the_adversarial_signals_do_turn_the_published_posterior(fit_type: str) -> None:
    """Else the tests above would prove nothing."""
    rises = 0
    for signal in adversarial().values():
        published = clean_probability(signal, fit_type)
        rises += np.diff(published[np.argsort(signal, kind="stable")]).max() > 0.01
    assert rises >= 2


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("fit_type", FITS)
@SETTINGS
@given(signal=SIGNALS)
def test_any_finite_signal_has_a_probability(fit_type: str, monotone: bool, signal: list[float]) -> None:
    values = np.array(signal)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probability = clean_probability(values, fit_type, monotone=monotone)
    assert probability.shape == values.shape and probability.dtype == np.float64
    assert np.isfinite(probability).all() and (probability >= 0).all() and (probability <= 1).all()
    if monotone:
        assert_non_increasing(values.astype(np.float64), probability)


@pytest.mark.parametrize("fit_type", FITS)
@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3], [0.0] * 5, [1e308] * 3, [-7] * 4, []], ids=str)
def test_equal_signals_leave_everybody_clean(values: list[float], fit_type: str) -> None:
    assert clean_probability(np.array(values), fit_type).tolist() == [1.0] * len(values)


@pytest.mark.parametrize("fit_type", FITS)
def test_scale_and_offset_do_not_matter(fit_type: str) -> None:
    signal = two_modes()
    once = clean_probability(signal, fit_type)
    np.testing.assert_allclose(clean_probability(1e6 * signal - 3e4, fit_type), once, rtol=0, atol=1e-6)
    np.testing.assert_allclose(clean_probability(signal.astype(np.float32), fit_type), once, rtol=0, atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="first at pair 2"):
        clean_probability(np.array([0.0, 1.0, bad, bad]))


def test_shapes_and_names_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        clean_probability(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="known: gmm, bmm"):
        clean_probability(np.zeros(3), "kmeans")


def test_division_by_threshold() -> None:
    assert divide(np.array([0.4, 0.5, 0.6]), 0.5).tolist() == [False, False, True]


@pytest.mark.parametrize(("pairs", "noisy"), [(2, 1), (99, 1), (100, 1), (250, 2), (1000, 10)])
def test_if_nobody_is_noisy_the_least_probable_percent_is(pairs: int, noisy: int) -> None:
    probability = np.random.RandomState(0).uniform(0.6, 1.0, pairs)
    is_clean = divide(probability, 0.5)
    assert (~is_clean).sum() == noisy
    assert probability[~is_clean].max() < probability[is_clean].min()


# -- what a fit leaves behind


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
