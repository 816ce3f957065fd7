"""DSDMR's filter: known mixtures, guards, monotone posteriors, errors, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.blocks.modes import Mode, SimilarityModes, bhattacharyya
from methods.blocks.similarity_modes import (
    ModesConfig,
    check_similarity,
    clean_posterior,
    fit_similarity_modes,
    select,
)
from runtime.errors import InputError
from tests import reference
from tests.methods.drawn_modes import CLEAN, NOISY, SINGLE, apart, mixture, one_mode, parameters


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("noise", "residual", "recall"),
    [(0.2, 0.016, 0.990), (0.4, 0.026, 0.980), (0.6, 0.038, 0.966), (0.8, 0.056, 0.938)],
)
def test_the_modes_of_a_known_mixture_are_found(noise: float, residual: float, recall: float, seed: int) -> None:
    """The residual noise of these modes with the fitted prior, worked out beforehand."""
    similarity, is_noisy = mixture(noise, seed=seed)
    modes = fit_similarity_modes(similarity, seed=seed)
    assert modes.is_split and modes.has_converged and modes.note == "" and modes.num_pairs == 30_000
    assert modes.noisy.mean == pytest.approx(NOISY[0], abs=0.005)
    assert modes.clean.mean == pytest.approx(CLEAN[0], abs=0.005)
    assert modes.noisy.std == pytest.approx(NOISY[1], abs=0.004)
    assert modes.clean.std == pytest.approx(CLEAN[1], abs=0.004)
    assert modes.noisy.weight == pytest.approx(noise, abs=0.02)
    assert modes.noisy.weight + modes.clean.weight == pytest.approx(1, abs=1e-12)
    assert modes.separation == pytest.approx(3.78, abs=0.2) and modes.bic_gain > 1000
    kept = select(clean_posterior(similarity, modes, "fitted"))
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
    modes = fit_similarity_modes(similarity)
    assert not modes.is_split and "every pair is kept" in modes.note
    assert modes.noisy == Mode(0.0, modes.clean.mean, modes.clean.std) and modes.overlap == 0.0
    assert modes.clean.weight == 1.0
    assert modes.clean.mean == pytest.approx(similarity.mean()) and modes.clean.std == pytest.approx(similarity.std())
    for prior in ("equal", "fitted", 0.2):
        assert (clean_posterior(similarity, modes, prior) == 1.0).all()


@pytest.mark.parametrize("name", [name for name in SINGLE if name != "normal"])
def test_without_the_separation_guard_skewed_modes_would_be_split(name: str) -> None:
    """Else the test above would prove nothing: BIC alone prefers two modes for all of them."""
    modes = fit_similarity_modes(one_mode(name, 30_000), min_separation=0.0)
    assert modes.is_split and modes.bic_gain > 100


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("separation", "noise"),
    [(2.0, 0.4), (2.0, 0.6), (2.5, 0.2), (2.5, 0.8), (3.0, 0.05), (3.0, 0.2), (3.0, 0.8), (4.0, 0.05), (4.0, 0.8)],
)
def test_two_modes_are_split(separation: float, noise: float, ratio: float) -> None:
    modes = fit_similarity_modes(apart(separation, noise, ratio, seed=1))
    assert modes.is_split and modes.note == ""
    assert modes.separation == pytest.approx(separation, abs=0.3)


def test_nobody_can_tell_all_noisy_from_all_clean() -> None:
    similarity, _ = mixture(1.0, 3000)
    modes = fit_similarity_modes(similarity)
    assert not modes.is_split and modes.bic_gain < 0
    assert "cannot tell all clean from all noisy" in modes.note
    assert select(clean_posterior(similarity, modes)).all()
    alone = fit_similarity_modes(similarity, min_separation=0.0)
    assert not alone.is_split and "no better than one (BIC -" in alone.note, "BIC needs no other guard"


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0, 1.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_constant_is_one_mode(value: float, dtype: type) -> None:
    similarity: np.ndarray = np.full(50, value, dtype=dtype)
    modes = fit_similarity_modes(similarity)
    assert not modes.is_split and "all similarities are" in modes.note
    assert modes.clean.mean == pytest.approx(value) and modes.clean.std == pytest.approx(0, abs=1e-15)
    assert modes.separation == modes.bic_gain == modes.overlap == 0.0
    assert clean_posterior(similarity, modes).tolist() == [1.0] * 50


@pytest.mark.parametrize("size", [10, 20, 1000])
@pytest.mark.parametrize("odd", [1, 2])
def test_all_equal_but_one_or_two_is_one_mode(size: int, odd: int) -> None:
    similarity = np.full(size, 0.3)
    similarity[:odd] = 0.1
    modes = fit_similarity_modes(similarity)
    assert not modes.is_split and f"holds {odd} of {size} pairs" in modes.note


def test_two_values_are_two_modes() -> None:
    modes = fit_similarity_modes(np.repeat([0.1, 0.3], [30, 70]))
    assert modes.is_split and modes.noisy.mean == pytest.approx(0.1) and modes.clean.weight == pytest.approx(0.7)
    assert 0 <= modes.overlap < 1e-100 and math.isfinite(modes.separation)


@pytest.mark.parametrize("size", [0, 3, 9])
def test_too_few_pairs_are_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"{size} pairs are too few to fit two modes; at least 10"):
        fit_similarity_modes(np.linspace(0, 1, size))


def test_ten_pairs_are_enough() -> None:
    similarity = np.array([0.1, 0.11, 0.12, 0.13, 0.14, 0.5, 0.51, 0.52, 0.53, 0.54])
    modes = fit_similarity_modes(similarity)
    assert modes.is_split and select(clean_posterior(similarity, modes)).tolist() == [False] * 5 + [True] * 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_similarity_that_is_no_number_is_named(bad: float) -> None:
    similarity, _ = mixture(0.4, 100)
    modes = fit_similarity_modes(similarity)
    similarity[[7, 9]] = bad
    for refused in (fit_similarity_modes, check_similarity, lambda s: clean_posterior(s, modes)):
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
        modes = fit_similarity_modes(scores, bounded=False, min_separation=0.0)
        probability = clean_posterior(scores, modes)
    figures = [*parameters(modes), modes.separation, modes.overlap, modes.bic_gain]
    assert all(math.isfinite(value) for value in figures)
    assert modes.noisy.mean <= modes.clean.mean and 0 <= modes.overlap <= 1
    assert ((probability >= 0) & (probability <= 1)).all()
    assert np.diff(probability[np.argsort(scores)]).min() >= -1e-12
    assert SimilarityModes.from_dict(json.loads(json.dumps(modes.as_dict()))) == modes


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
    modes = two_modes(noisy, clean)
    ours = clean_posterior(similarity, modes, prior)
    twin = reference.modes_posterior(similarity, clean, noisy, number)
    np.testing.assert_allclose(ours, twin, rtol=0, atol=1e-5)
    assert np.diff(ours[np.argsort(similarity)]).min() >= -1e-15
    assert ours[similarity.argmax()] > ours[similarity.argmin()]


@pytest.mark.parametrize("which", [0, 1])
def test_these_posteriors_do_turn_round(which: int) -> None:
    """Else the test above would prove nothing."""
    noisy, clean = UNEQUAL[which]
    grid = np.linspace(-0.6, 1.0, 400)
    plain = [reference.modes_posterior([s], clean, noisy, 0.5)[0] for s in grid]
    assert np.diff(plain).min() < -0.01


@pytest.mark.parametrize("prior", ["clean", "0", "1", 0.0, 1.0, -1, 2, "nan", ""])
def test_priors_are_checked(prior: str | float) -> None:
    with pytest.raises(InputError, match="--mode_prior .*equal, fitted or a number between 0 and 1"):
        clean_posterior(np.zeros(3), two_modes(*UNEQUAL[0]), prior)
    with pytest.raises(InputError, match="--mode_prior"):
        ModesConfig(mode_prior=str(prior))


def test_flags_are_checked() -> None:
    assert ModesConfig() == ModesConfig(mode_starts=5, mode_prior="equal")
    with pytest.raises(InputError, match="--mode_starts 0"):
        ModesConfig(mode_starts=0)
    for wrong in (-0.1, math.nan):
        with pytest.raises(InputError, match="--min_separation"):
            ModesConfig(min_separation=wrong)


def test_select_may_keep_nobody() -> None:
    probability = np.array([0.5, 0.2, 0.51])
    assert select(probability).tolist() == [False, False, True]
    assert select(probability, 0.9).tolist() == [False] * 3 and select(probability, 0.9).dtype == bool


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
        modes = fit_similarity_modes(similarity)
        plain = modes.as_dict()
        assert SimilarityModes.from_dict(json.loads(json.dumps(plain, allow_nan=False))) == modes
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
