"""Mixtures over a division signal: slow twins, chunks, monotone posteriors, any finite input, errors, the division."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from methods.blocks import chunks
from methods.blocks.beta import TINY, BetaMixture
from methods.blocks.mixture import FITS, clean_probability, divide, fit_bmm, min_max
from methods.blocks.normal import GMM_EXTRA_VARIANCE, NormalMixture
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


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("fit_type", FITS)
@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7, 299, 300, 301])
def test_chunks_do_not_matter(size: int, fit_type: str, monotone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    signal = two_modes(size, seed=1)
    whole = clean_probability(signal, fit_type, monotone=monotone)
    monkeypatch.setattr(chunks, "CHUNK", 3)
    again = clean_probability(signal, fit_type, monotone=monotone)
    np.testing.assert_allclose(again, whole, rtol=0, atol=1e-10)


def test_the_order_of_pairs_does_not_matter() -> None:
    signal = two_modes()
    backwards = clean_probability(signal[::-1], "bmm")
    np.testing.assert_allclose(backwards[::-1], clean_probability(signal, "bmm"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_around_a_full_chunk_bmm_is_the_published_one(
    extra: int, monotone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 100)
    loss = 3 * two_modes(200 + extra)
    ours, twin = clean_probability(loss, "bmm", monotone=monotone), reference.beta_mixture(loss, monotone=monotone)
    inner = (min_max(loss) > 0) & (min_max(loss) < 1)
    np.testing.assert_allclose(ours[inner], twin["clean_probability"][inner], rtol=0, atol=1e-8)


@pytest.mark.parametrize("fit_type", FITS)
def test_the_number_of_threads_does_not_change_a_bit(fit_type: str) -> None:
    signal, before = two_modes(100_003), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = clean_probability(signal, fit_type)
        torch.set_num_threads(3)
        together = clean_probability(signal, fit_type)
    finally:
        torch.set_num_threads(before)
    assert (alone == together).all()


@pytest.mark.parametrize("monotone", [False, True])
def test_memory_is_four_columns(monotone: bool) -> None:
    signal = two_modes(300_000)
    tracemalloc.start()
    clean_probability(signal, "bmm", monotone=monotone)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4.1 * signal.nbytes


def test_zero_times_log_zero_is_zero() -> None:
    """Densities 2 (1 - x) and 2 x: at the ends one of them is 0, the other one 2."""
    start = BetaMixture(np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(start.posterior(np.array([0.0, 0.25, 1.0])), [1.0, 0.75, 0.0], rtol=0, atol=1e-11)


def test_a_beta_component_without_pairs_or_spread_stays() -> None:
    start = BetaMixture(np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.5, 0.5]))
    total = np.array([4.0, 2.0, 1.2])  # mean 0.5, variance 0.05: alpha = 0.5 (0.25 / 0.05 - 1)
    with np.errstate(all="raise"):
        left = start.refitted(np.zeros(3), total)
    np.testing.assert_allclose([left.alphas, left.betas, left.weights], [[1, 2], [2, 2], [TINY, 1]], rtol=1e-12)
    point = start.refitted(np.array([1.0, 0.5, 0.25]), np.array([2.0, 1.0, 0.5]))
    np.testing.assert_allclose([point.alphas, point.betas, point.weights], [[1, 2], [2, 1], [0.5, 0.5]])


def test_a_gaussian_component_without_pairs_is_defined() -> None:
    left = NormalMixture.of_moments(np.array([4.0, 2.0, 1.2]), np.array([4.0, 2.0, 1.2]))
    np.testing.assert_allclose(left.means, [0.5, 0.0], rtol=1e-12)
    np.testing.assert_allclose(left.variances, [0.05 + GMM_EXTRA_VARIANCE, GMM_EXTRA_VARIANCE], rtol=1e-12)
    assert 0 < left.weights[1] < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_monotone_bmm_is_the_published_one_where_that_falls(seed: int) -> None:
    """The two repairs differ in the tails alone: ours in closed form, the twin's by a running minimum."""
    loss = two_modes(seed=seed)
    ours = clean_probability(loss, "bmm", monotone=True)
    twin = reference.beta_mixture(loss, monotone=True)["clean_probability"]
    inner = (min_max(loss) > 1e-3) & (min_max(loss) < 1 - 1e-3)
    np.testing.assert_allclose(ours[inner], twin[inner], rtol=0, atol=1e-3)


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


@pytest.mark.parametrize("chunk", [3, chunks.CHUNK])
@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("fit_type", FITS)
@SETTINGS
@given(signal=SIGNALS)
def test_any_finite_signal_has_a_probability(fit_type: str, monotone: bool, chunk: int, signal: list[float]) -> None:
    values = np.array(signal)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", chunk)
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


@pytest.mark.parametrize("fit_type", FITS)
def test_low_signals_are_clean(fit_type: str) -> None:
    random = np.random.RandomState(0)
    signal = np.concatenate([0.2 + 0.05 * random.randn(200), 0.8 + 0.05 * random.randn(100)])
    is_clean = clean_probability(signal, fit_type, monotone=True) > 0.5
    assert is_clean[:200].mean() > 0.98 and is_clean[200:].mean() < 0.02


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="first at pair 2"):
        clean_probability(np.array([0.0, 1.0, bad, bad]))


def test_shapes_and_names_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        clean_probability(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="known: gmm, bmm"):
        clean_probability(np.zeros(3), "kmeans")


def sklearns(signal: np.ndarray) -> tuple[GaussianMixture, np.ndarray]:
    """Return scikit-learn's mixture with NCR's settings, and its clean probability."""
    x = min_max(signal)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(x)
    return fitted, fitted.predict_proba(x)[:, fitted.means_.ravel().argmin()]


@pytest.mark.parametrize("seed", range(3))
def test_gmm_is_sklearns(seed: int) -> None:
    signal = two_modes(seed=seed)
    fitted, expected = sklearns(signal)
    np.testing.assert_allclose(clean_probability(signal, "gmm"), expected, rtol=0, atol=1e-9)
    x, means, deviations = min_max(signal), fitted.means_.ravel(), np.sqrt(fitted.covariances_.ravel())
    core = (signal > signal.min()) & (x > means.min() - deviations.min()) & (x < means.max())
    repaired = clean_probability(signal, "gmm", monotone=True)
    np.testing.assert_allclose(repaired[core], expected[core], rtol=0, atol=0.02)


@pytest.mark.parametrize("name", adversarial())
def test_gmm_is_sklearns_where_it_is_hard(name: str) -> None:
    signal = adversarial()[name]
    np.testing.assert_allclose(clean_probability(signal, "gmm"), sklearns(signal)[1], rtol=0, atol=1e-9)


@SETTINGS
@given(signal=SIGNALS)
def test_gmm_is_sklearns_on_anything(signal: list[float]) -> None:
    values = np.array(signal, dtype=np.float64)
    if values.min() < values.max():
        np.testing.assert_allclose(clean_probability(values, "gmm"), sklearns(values)[1], rtol=0, atol=1e-9)


def test_division_by_threshold() -> None:
    assert divide(np.array([0.4, 0.5, 0.6]), 0.5).tolist() == [False, False, True]


@pytest.mark.parametrize(("pairs", "noisy"), [(2, 1), (99, 1), (100, 1), (250, 2), (1000, 10)])
def test_if_nobody_is_noisy_the_least_probable_percent_is(pairs: int, noisy: int) -> None:
    probability = np.random.RandomState(0).uniform(0.6, 1.0, pairs)
    is_clean = divide(probability, 0.5)
    assert (~is_clean).sum() == noisy
    assert probability[~is_clean].max() < probability[is_clean].min()


def test_everybody_may_be_noisy_and_one_pair_alone_stays_clean() -> None:
    assert divide(np.full(200, 0.3), 0.5).tolist() == [False] * 200
    assert divide(np.array([0.9]), 0.5).tolist() == [True]
    assert divide(np.ones(300), 0.5).sum() == 297, "equal probabilities too"
