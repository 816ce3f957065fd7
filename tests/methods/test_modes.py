"""DSDMR's filter: known mixtures, guards, the fit's twins, monotone posteriors, errors, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from methods.blocks import modes
from methods.blocks.modes import (
    Mode,
    ModesConfig,
    SimilarityModes,
    bhattacharyya,
    check_similarity,
    clean_posterior,
    fit_similarity_modes,
    select,
)
from runtime.errors import InputError
from tests import reference

NOISY, CLEAN = (0.169, 0.041), (0.313, 0.035)
"""Mean and deviation of the modes of Flickr30K before training (DSDMR, Figure 4)."""


def mixture(
    noise: float,
    size: int = 30_000,
    seed: int = 0,
    noisy: tuple[float, float] = NOISY,
    clean: tuple[float, float] = CLEAN,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw similarities of two modes, and which pairs are noisy."""
    random = np.random.default_rng(seed)
    is_noisy = random.random(size) < noise
    return np.where(is_noisy, random.normal(*noisy, size), random.normal(*clean, size)), is_noisy


def apart(separation: float, noise: float, ratio: float, seed: int = 0, size: int = 30_000) -> np.ndarray:
    """Draw a mixture of a true d', the noisy mode `ratio` times as broad as the clean one."""
    gap = separation * 0.04 * math.sqrt((1 + ratio**2) / 2)
    return mixture(noise, size, seed, (0.3 - gap, 0.04 * ratio), (0.3, 0.04))[0]


def one_mode(name: str, size: int, seed: int = 0) -> np.ndarray:
    """Draw similarities of one mode, many of them skewed."""
    random = np.random.default_rng(seed)
    draws = {
        "normal": lambda: random.normal(0.3, 0.04, size),
        "beta(5, 2)": lambda: random.beta(5, 2, size),
        "beta(20, 4)": lambda: random.beta(20, 4, size),
        "Student t(5)": lambda: 0.3 + 0.02 * random.standard_t(5, size),
        "lognormal": lambda: 1 - 0.1 * random.lognormal(0, 0.5, size),
        "Gumbel": lambda: 0.5 - 0.04 * random.gumbel(0, 1, size),
        "exponential": lambda: 0.9 - 0.05 * random.exponential(1, size),
    }
    return np.clip(draws[name](), -1, 1)


SINGLE = ("normal", "beta(5, 2)", "beta(20, 4)", "Student t(5)", "lognormal", "Gumbel", "exponential")


def parameters(modes: SimilarityModes) -> list[float]:
    """Return all parameters of the two modes."""
    return [*vars(modes.noisy).values(), *vars(modes.clean).values()]


def standardised(similarity: np.ndarray) -> np.ndarray:
    """Return what the fit sees."""
    return (np.sort(similarity) - similarity.mean()) / similarity.std()


@pytest.mark.parametrize(
    ("noise", "residual", "recall"),
    [(0.2, 0.016, 0.990), (0.4, 0.026, 0.980), (0.6, 0.038, 0.966), (0.8, 0.056, 0.938)],
)
def test_the_modes_of_a_known_mixture_are_found(noise: float, residual: float, recall: float) -> None:
    """The residual noise of these modes with the fitted prior, worked out beforehand."""
    similarity, is_noisy = mixture(noise)
    found = fit_similarity_modes(similarity)
    assert found.is_split and found.has_converged and found.note == "" and found.num_pairs == 30_000
    assert found.noisy.mean == pytest.approx(NOISY[0], abs=0.005)
    assert found.clean.mean == pytest.approx(CLEAN[0], abs=0.005)
    assert found.noisy.std == pytest.approx(NOISY[1], abs=0.004)
    assert found.clean.std == pytest.approx(CLEAN[1], abs=0.004)
    assert found.noisy.weight == pytest.approx(noise, abs=0.02)
    assert found.noisy.weight + found.clean.weight == pytest.approx(1, abs=1e-12)
    assert found.separation == pytest.approx(3.78, abs=0.2) and found.bic_gain > 1000
    kept = select(clean_posterior(similarity, found, "fitted"))
    assert is_noisy[kept].mean() == pytest.approx(residual, abs=0.01)
    assert kept[~is_noisy].mean() == pytest.approx(recall, abs=0.01)


@pytest.mark.parametrize(("noise", "residual"), [(0.2, 0.008), (0.4, 0.021), (0.6, 0.046), (0.8, 0.116)])
def test_the_equal_prior_cuts_at_one_place_whatever_the_noise(noise: float, residual: float) -> None:
    """About the published residual noise on COCO (.010 / .023 / .046 / .118)."""
    similarity, is_noisy = mixture(noise)
    kept = select(clean_posterior(similarity, fit_similarity_modes(similarity), "equal"))
    assert is_noisy[kept].mean() == pytest.approx(residual, abs=0.01)
    assert kept[~is_noisy].mean() == pytest.approx(0.974, abs=0.01)
    assert similarity[kept].min() == pytest.approx(0.245, abs=0.005)


@pytest.mark.parametrize("size", [3000, 30_000])
@pytest.mark.parametrize("name", SINGLE)
def test_one_mode_is_kept_whole(name: str, size: int) -> None:
    similarity = one_mode(name, size)
    found = fit_similarity_modes(similarity)
    assert not found.is_split and "every pair is kept" in found.note
    assert found.noisy == Mode(0.0, found.clean.mean, found.clean.std) and found.overlap == 0.0
    assert found.clean.weight == 1.0
    assert found.clean.mean == pytest.approx(similarity.mean()) and found.clean.std == pytest.approx(similarity.std())
    for prior in ("equal", "fitted", 0.2):
        assert (clean_posterior(similarity, found, prior) == 1.0).all()


@pytest.mark.parametrize("name", [name for name in SINGLE if name != "normal"])
def test_without_the_separation_guard_skewed_modes_would_be_split(name: str) -> None:
    """Else the test above would prove nothing: BIC alone prefers two modes for all of them."""
    found = fit_similarity_modes(one_mode(name, 30_000), min_separation=0.0)
    assert found.is_split and found.bic_gain > 100


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("separation", "noise"),
    [(2.0, 0.4), (2.0, 0.6), (2.5, 0.2), (2.5, 0.8), (3.0, 0.05), (3.0, 0.2), (3.0, 0.8), (4.0, 0.05), (4.0, 0.8)],
)
def test_two_modes_are_split(separation: float, noise: float, ratio: float) -> None:
    found = fit_similarity_modes(apart(separation, noise, ratio, seed=1))
    assert found.is_split and found.note == ""
    assert found.separation == pytest.approx(separation, abs=0.3)


@pytest.mark.parametrize("size", [10, 20, 1000])
@pytest.mark.parametrize("odd", [1, 2])
def test_all_equal_but_one_or_two_is_one_mode(size: int, odd: int) -> None:
    similarity = np.full(size, 0.3)
    similarity[:odd] = 0.1
    found = fit_similarity_modes(similarity)
    assert not found.is_split and f"holds {odd} of {size} pairs" in found.note


@pytest.mark.parametrize("size", [0, 3, 9])
def test_too_few_pairs_are_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"{size} pairs are too few to fit two modes; at least 10"):
        fit_similarity_modes(np.linspace(0, 1, size))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_similarity_that_is_no_number_is_named(bad: float) -> None:
    similarity, _ = mixture(0.4, 100)
    found = fit_similarity_modes(similarity)
    similarity[[7, 9]] = bad
    for refused in (fit_similarity_modes, check_similarity, lambda s: clean_posterior(s, found)):
        with pytest.raises(InputError, match="pair 7 is -?(nan|inf)"):
            refused(similarity)


def test_scaled_cosines_ask_for_their_scale() -> None:
    similarity, _ = mixture(0.4, 3000)
    with pytest.raises(InputError, match=r"pair 0 is .*outside \[-1, 1\].*--logit_scale"):
        fit_similarity_modes(100 * similarity)
    np.testing.assert_allclose(check_similarity(100 * similarity, logit_scale=100), similarity, rtol=1e-14)
    scores = fit_similarity_modes(100 * similarity, bounded=False)
    assert scores.clean.mean == pytest.approx(100 * fit_similarity_modes(similarity).clean.mean, rel=1e-9)
    for outside in ([1.0, 1 + 2e-6, -5], [1.0, -1 - 2e-6, 1.0]):
        with pytest.raises(InputError, match="pair 1 "):
            check_similarity(np.array(outside))
    assert check_similarity(np.array([1 + 5e-7, -1 - 5e-7])).tolist() == [1.0, -1.0]
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="--logit_scale"):
            check_similarity(similarity, logit_scale=scale)


def test_shapes_and_sizes_are_checked() -> None:
    with pytest.raises(InputError, match=r"\(4, 4\)"):
        fit_similarity_modes(np.zeros((4, 4)))
    with pytest.raises(InputError, match="pair 2 is beyond 1e\\+100"):
        fit_similarity_modes(np.array([0.0] * 2 + [1e200] + [1.0] * 8), bounded=False)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.lists(st.floats(-1, 1), min_size=10, max_size=40),
        st.lists(st.sampled_from([0.0, 5e-324, 1e-300, 1e-9, 0.5, 0.5 + 1e-16, 1.0, -1.0]), min_size=10, max_size=20),
        st.lists(st.floats(-1e100, 1e100), min_size=10, max_size=20),
    )
)
def test_any_finite_scores_have_modes(values: list[float]) -> None:
    scores = np.array(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_similarity_modes(scores, bounded=False, min_separation=0.0)
        probability = clean_posterior(scores, found)
    figures = [*parameters(found), found.separation, found.overlap, found.bic_gain]
    assert all(math.isfinite(value) for value in figures)
    assert found.noisy.mean <= found.clean.mean and 0 <= found.overlap <= 1
    assert ((probability >= 0) & (probability <= 1)).all()
    assert np.diff(probability[np.argsort(scores)]).min() >= -1e-12
    assert SimilarityModes.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def two_modes(noisy: tuple[float, float], clean: tuple[float, float], weight: float = 0.7) -> SimilarityModes:
    """Return split modes of these means and deviations."""
    low, high = Mode(1 - weight, *noisy), Mode(weight, *clean)
    return SimilarityModes(low, high, True, "", 3.0, bhattacharyya(low, high), 10.0, True, 100)


UNEQUAL = [((0.1, 0.1), (0.4, 0.05)), ((0.1, 0.05), (0.4, 0.1)), ((0.1, 0.05), (0.4, 0.05)), ((0.3, 0.2), (0.31, 0.02))]


@pytest.mark.parametrize(("prior", "number"), [("equal", 0.5), ("fitted", 0.7), (0.9, 0.9), ("0.25", 0.25)])
@pytest.mark.parametrize(("noisy", "clean"), UNEQUAL)
def test_the_posterior_is_its_twin_and_never_falls(
    noisy: tuple[float, float], clean: tuple[float, float], prior: str | float, number: float
) -> None:
    similarity = np.random.default_rng(0).permutation(np.linspace(-0.6, 1.0, 4001))
    found = two_modes(noisy, clean)
    ours = clean_posterior(similarity, found, prior)
    twin = reference.modes_posterior(similarity, clean, noisy, number)
    np.testing.assert_allclose(ours, twin, rtol=0, atol=1e-5)
    assert np.diff(ours[np.argsort(similarity)]).min() >= -1e-15
    assert ours[similarity.argmax()] > ours[similarity.argmin()]


@pytest.mark.parametrize("prior", ["clean", "0", "1", 0.0, 1.0, -1, 2, "nan", ""])
def test_priors_are_checked(prior: str | float) -> None:
    with pytest.raises(InputError, match="--mode_prior .*equal, fitted or a number between 0 and 1"):
        clean_posterior(np.zeros(3), two_modes(*UNEQUAL[0]), prior)
    with pytest.raises(InputError, match="--mode_prior"):
        ModesConfig(mode_prior=str(prior))


@pytest.mark.parametrize(("noisy", "clean"), UNEQUAL)
def test_overlap_is_the_integral(noisy: tuple[float, float], clean: tuple[float, float]) -> None:
    """BC = integral of sqrt(p q)."""
    low, high = Mode(0.2, *noisy), Mode(0.8, *clean)
    grid = np.linspace(-2, 3, 200_001)
    densities = [np.exp(-(((grid - m) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi)) for m, s in (noisy, clean)]
    integral = np.sqrt(densities[0] * densities[1]).sum() * (grid[1] - grid[0])
    assert bhattacharyya(low, high) == bhattacharyya(high, low) == pytest.approx(integral, rel=1e-6)
    assert bhattacharyya(low, low) == pytest.approx(1.0, abs=1e-15)


def test_json_gives_exactly_these_modes_back() -> None:
    for similarity in (mixture(0.4, 1000)[0], one_mode("beta(5, 2)", 500), np.full(12, 0.1)):
        found = fit_similarity_modes(similarity)
        plain = found.as_dict()
        assert SimilarityModes.from_dict(json.loads(json.dumps(plain, allow_nan=False))) == found
        assert {type(value) for value in plain.values()} <= {float, int, bool, str, dict}


def test_json_of_something_else_is_refused() -> None:
    plain = fit_similarity_modes(mixture(0.4, 1000)[0]).as_dict()
    for name in plain:
        with pytest.raises(InputError, match=f"unknown fields: .*{name}|unknown fields: mean, std, weight"):
            SimilarityModes.from_dict({key: value for key, value in plain.items() if key != name})
    with pytest.raises(InputError, match="fields: extra"):
        SimilarityModes.from_dict({**plain, "extra": 1})
    with pytest.raises(InputError, match="fields: mean, std, weight"):
        SimilarityModes.from_dict({**plain, "clean": 0.5})
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit_similarity_modes(mixture(0.4, 1000)[0]).note = ""  # type: ignore[misc]


# -- the fit --------------------------------------------------------------------------------------------------------

START = np.array([0.4, -0.7, math.log(0.5), math.log(1.1), math.log(0.3 / 0.7)])
STUCK = np.zeros(5)
"""Two equal components: no step leaves them."""
GOOD = np.array([-1.0, 1.0, -1.2, -1.2, 0.0])


def each(x: np.ndarray) -> np.ndarray:
    """Return every pair as a group."""
    return np.stack([np.ones_like(x), x, x * x])


@pytest.mark.parametrize("noise", [0.1, 0.7])
def test_the_fit_is_sklearns_at_convergence(noise: float) -> None:
    similarity = apart(2.4, noise, 1.5, size=4000)
    fitted = GaussianMixture(2, tol=1e-9, max_iter=5000, reg_covar=1e-6 * similarity.var(), n_init=3, random_state=0)
    fitted.fit(similarity[:, None])
    found, order = fit_similarity_modes(similarity, min_separation=0.0), fitted.means_.ravel().argsort()
    expected = np.stack([fitted.weights_, fitted.means_.ravel(), np.sqrt(fitted.covariances_.ravel())])[:, order]
    np.testing.assert_allclose(parameters(found), expected.T.ravel(), rtol=0, atol=2e-3)
    one = GaussianMixture(1, reg_covar=0).fit(similarity[:, None])
    gain = one.bic(similarity[:, None]) - fitted.bic(similarity[:, None])
    assert found.bic_gain == pytest.approx(gain, abs=0.05)


def test_an_em_step_is_its_twin_and_counts_masses() -> None:
    x = np.sort(np.random.default_rng(1).standard_normal(40))
    for groups, values in ((each(x), x), (modes.grouped(x), x), (3 * each(x), np.repeat(x, 3))):
        ours, log_likelihood = modes.em_step(START, groups)
        twin = reference.two_gaussians_em_step(values, [0.3, 0.7], [0.4, -0.7], [0.5, 1.1], modes.EXTRA_VARIANCE)
        np.testing.assert_allclose(ours[:2], twin["means"], rtol=1e-10)
        np.testing.assert_allclose(np.exp(ours[2:4]), twin["variances"], rtol=1e-10)
        np.testing.assert_allclose(modes.Fit(ours, 0.0, True).weights, twin["weights"], rtol=1e-10)
        assert log_likelihood == pytest.approx(twin["log_likelihood"], rel=1e-12)


@pytest.mark.parametrize(("size", "separation", "seed"), [(100, 4.0, 5), (300, 4.0, 6), (300, 2.0, 8), (1000, 4.0, 6)])
def test_a_leap_that_loses_likelihood_is_taken_back(size: int, separation: float, seed: int) -> None:
    """On these samples, leaps taken blindly end below sixty plain steps of EM from the same start."""
    x = standardised(apart(separation, 0.05, 1.0, seed, size))
    for start in modes.starts(modes.grouped(x), seed=0, number=5):
        plain, log_likelihood = start, -math.inf
        for _ in range(60):
            plain, log_likelihood = modes.em_step(plain, each(x))
        fit = modes.converged(start, each(x))
        assert fit.has_converged and fit.log_likelihood >= log_likelihood - 1e-8


@pytest.mark.parametrize("noise", [0.03, 0.95])
def test_a_small_mode_is_found_as_if_the_fit_had_started_there(noise: float) -> None:
    similarity = apart(3.0, noise, 1.0, 0, 5000)
    x, mean, std = standardised(similarity), similarity.mean(), similarity.std()
    width = 2 * math.log(0.04 / std)
    truth = np.array([(0.18 - mean) / std, (0.3 - mean) / std, width, width, math.log(noise / (1 - noise))])
    best = modes.converged(truth, each(x))
    assert modes.fit_two_gaussians(x, 0, 5).log_likelihood >= best.log_likelihood - 1e-6


def test_neither_order_nor_type_of_the_pairs_changes_a_bit() -> None:
    similarity = mixture(0.4, 20_000)[0].astype(np.float32)
    before, found = similarity.copy(), fit_similarity_modes(similarity, seed=3)
    shuffled = np.random.default_rng(5).permutation(similarity)
    assert fit_similarity_modes(shuffled, seed=3) == found
    assert fit_similarity_modes(torch.from_numpy(similarity).requires_grad_(), seed=3) == found
    assert (clean_posterior(similarity, found) == clean_posterior(torch.from_numpy(similarity), found)).all()
    assert (similarity == before).all(), "the caller's array is left alone"
    half = torch.from_numpy(similarity).to(torch.bfloat16)
    assert fit_similarity_modes(half).clean.mean == pytest.approx(CLEAN[0], abs=0.005)


@pytest.mark.parametrize("number", [1, 3, 8])
def test_starts_are_as_many_as_asked_for_and_seeded(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, starts = mixture(0.4, 500)[0], modes.starts
    groups = modes.grouped(standardised(similarity))
    found = [[start.tolist() for start in starts(groups, seed, number)] for seed in (0, 0, 1)]
    assert [len(given) for given in found] == [number] * 3
    assert found[0] == found[1] and (found[0] != found[2]) == (number > 3), "the first three are not random"
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(modes, "starts", lambda groups, *given: asked.append(given) or starts(groups, *given))
    fit_similarity_modes(similarity, seed=7, num_starts=number)
    assert asked == [(7, number)]


def test_the_likeliest_start_wins_in_whatever_order_of_components(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, _ = mixture(0.4, 5000)
    expected = fit_similarity_modes(similarity)
    for drawn in ([STUCK, GOOD], [GOOD, STUCK], [GOOD * [-1, -1, 1, 1, 1]]):
        monkeypatch.setattr(modes, "starts", lambda *_, drawn=drawn: iter(drawn))
        np.testing.assert_allclose(parameters(fit_similarity_modes(similarity)), parameters(expected), atol=1e-4)
    monkeypatch.setattr(modes, "starts", lambda *_: iter([STUCK]))
    assert not fit_similarity_modes(similarity).is_split


def test_a_likelier_spike_of_few_pairs_does_not_hide_the_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.9 % of the pairs are equal: a very likely mode, but none to divide by."""
    similarity = apart(2.1, 0.4, 1.0, size=5000)
    similarity[:45] = 0.29
    expected, x = fit_similarity_modes(similarity), (0.29 - similarity.mean()) / similarity.std()
    spike = np.array([x, 0.0, math.log(modes.EXTRA_VARIANCE), 0.0, math.log(0.01 / 0.99)])
    assert expected.is_split
    for drawn in ([spike, GOOD], [GOOD, spike]):
        monkeypatch.setattr(modes, "starts", lambda *_, drawn=drawn: iter(drawn))
        np.testing.assert_allclose(parameters(fit_similarity_modes(similarity)), parameters(expected), atol=0.01)
    monkeypatch.setattr(modes, "starts", lambda *_: iter([spike]))
    alone = fit_similarity_modes(similarity, min_separation=0.0)
    assert not alone.is_split and alone.bic_gain > expected.bic_gain and "of 5000 pairs" in alone.note


def test_a_fit_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "ROUNDS", 1)
    found = fit_similarity_modes(mixture(0.4, 3000)[0])
    assert found.is_split and not found.has_converged and "did not converge" in found.note


def test_groups_do_not_move_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 15 groups only the last steps, on all pairs, can bring it there."""
    similarity = apart(2.2, 0.3, 1.0, size=20_000)
    expected = fit_similarity_modes(similarity)
    monkeypatch.setattr(modes, "GROUPS", 15)
    np.testing.assert_allclose(parameters(fit_similarity_modes(similarity)), parameters(expected), rtol=0, atol=2e-3)


def test_of_few_pairs_modes_must_lie_farther_apart() -> None:
    found = fit_similarity_modes(one_mode("beta(5, 2)", 300))
    assert modes.MIN_SEPARATION < found.separation and not found.is_split and "deviations apart" in found.note
