"""EM of two Gaussians: slow twins, scikit-learn, starts, leaps, groups, orders, threads, memory."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from methods.blocks import chunks, gaussian_modes
from methods.blocks.gaussian_modes import EXTRA_VARIANCE, Pairs
from methods.blocks.normal import NormalMixture
from methods.blocks.similarity_modes import clean_posterior, fit_similarity_modes
from tests import reference
from tests.methods.drawn_modes import CLEAN, apart, mixture, parameters, standardised


@pytest.mark.parametrize("noise", [0.1, 0.4, 0.7])
def test_the_fit_is_sklearns_at_convergence(noise: float) -> None:
    similarity = apart(2.4, noise, 1.5, size=4000)
    fitted = GaussianMixture(
        2, tol=1e-9, max_iter=5000, reg_covar=1e-6 * similarity.var(), n_init=3, random_state=0
    ).fit(similarity[:, None])
    modes, order = fit_similarity_modes(similarity, min_separation=0.0), fitted.means_.ravel().argsort()
    expected = np.stack([fitted.weights_, fitted.means_.ravel(), np.sqrt(fitted.covariances_.ravel())])[:, order]
    np.testing.assert_allclose(parameters(modes), expected.T.ravel(), rtol=0, atol=2e-3)
    gain = GaussianMixture(1, reg_covar=0).fit(similarity[:, None]).bic(similarity[:, None]) - fitted.bic(
        similarity[:, None]
    )
    assert modes.bic_gain == pytest.approx(gain, abs=0.05)


def draw_mixture() -> NormalMixture:
    """Return two components to start from."""
    return NormalMixture(np.array([0.4, -0.7]), np.array([0.5, 1.1]), np.array([0.3, 0.7]))


@pytest.mark.parametrize("chunk", [7, chunks.CHUNK])
def test_an_em_step_is_its_twin(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    x, start = np.sort(np.random.default_rng(1).standard_normal(60)), draw_mixture()
    twin = reference.two_gaussians_em_step(
        x, start.weights.tolist(), start.means.tolist(), start.variances.tolist(), EXTRA_VARIANCE
    )
    for pairs in (Pairs.of(x), Pairs.of_groups(gaussian_modes._grouped(x))):
        ours, log_likelihood = pairs.em_step(start)
        for name in ("weights", "means", "variances"):
            np.testing.assert_allclose(getattr(ours, name), twin[name], rtol=1e-10)
        assert log_likelihood == pytest.approx(twin["log_likelihood"], rel=1e-12)


def test_an_em_step_on_groups_of_equal_pairs_is_one_on_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian_modes, "GROUPS", 40)
    x, start = np.repeat(np.sort(np.random.default_rng(1).standard_normal(40)), 3), draw_mixture()
    groups = gaussian_modes._grouped(x)
    (ours, ours_log), (all_pairs, log) = Pairs.of_groups(groups).em_step(start), Pairs.of(x).em_step(start)
    assert groups.shape == (4, 40) and ours_log == pytest.approx(log, rel=1e-12)
    for name in ("weights", "means", "variances"):
        np.testing.assert_allclose(getattr(ours, name), getattr(all_pairs, name), rtol=1e-10)


def test_groups_hold_the_moments_of_their_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian_modes, "GROUPS", 4)
    x = np.arange(10.0)
    groups = gaussian_modes._grouped(x)
    assert groups[1].tolist() == [2, 3, 2, 3] and groups[0].tolist() == [0.5, 3, 5.5, 8]
    np.testing.assert_allclose(groups[1:].sum(axis=1), [10, x.sum(), (x**2).sum()])


@pytest.mark.parametrize("groups", [15, 8192])
@pytest.mark.parametrize("separation", [2.2, 3.8])
def test_groups_do_not_move_the_fit(separation: float, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 15 groups only the last steps, on all pairs, can bring it there."""
    similarity = apart(separation, 0.3, 1.0, size=20_000)
    monkeypatch.setattr(gaussian_modes, "GROUPS", groups)
    grouped = fit_similarity_modes(similarity)
    monkeypatch.setattr(gaussian_modes, "GROUPS", 10**6)
    np.testing.assert_allclose(parameters(fit_similarity_modes(similarity)), parameters(grouped), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("size", "separation", "seed"), [(100, 4.0, 5), (300, 4.0, 6), (300, 2.0, 8), (1000, 4.0, 6)])
def test_a_leap_that_loses_likelihood_is_taken_back(size: int, separation: float, seed: int) -> None:
    """On these samples, leaps taken blindly end below sixty plain steps of EM from the same start."""
    x = standardised(apart(separation, 0.05, 1.0, seed, size))
    for start in gaussian_modes._starts(gaussian_modes._grouped(x), seed=0, number=5):
        plain, log_likelihood = start, -math.inf
        for _ in range(60):
            plain, log_likelihood = Pairs.of(x).em_step(plain)
        fit = gaussian_modes.converged(start, Pairs.of(x))
        assert fit.has_converged and fit.log_likelihood >= log_likelihood - 1e-8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.03, 0.05, 0.95])
def test_a_small_mode_is_found_as_if_the_fit_had_started_there(noise: float, seed: int) -> None:
    similarity = apart(3.0, noise, 1.0, seed, 5000)
    x, mean, std = standardised(similarity), similarity.mean(), similarity.std()
    truth = NormalMixture(
        (np.array([0.18, 0.3]) - mean) / std, np.full(2, 0.04 / std) ** 2, np.array([noise, 1 - noise])
    )
    best = gaussian_modes.converged(truth, Pairs.of(x))
    assert gaussian_modes.fit_two_gaussians(x, 0, 5).log_likelihood >= best.log_likelihood - 1e-6


def test_the_order_of_components_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, _ = mixture(0.3)
    straight, starts = fit_similarity_modes(similarity), gaussian_modes._starts

    def swapped(*given: Any) -> Any:
        for start in starts(*given):
            yield NormalMixture(start.means[::-1], start.variances[::-1], start.weights[::-1])

    monkeypatch.setattr(gaussian_modes, "_starts", swapped)
    turned = fit_similarity_modes(similarity)
    np.testing.assert_allclose(parameters(turned), parameters(straight), rtol=0, atol=1e-5)
    np.testing.assert_allclose(clean_posterior(similarity, turned), clean_posterior(similarity, straight), atol=1e-4)


def test_the_order_of_pairs_changes_no_bit() -> None:
    similarity, _ = mixture(0.4, 20_000)
    shuffled = np.random.default_rng(5).permutation(similarity)
    assert fit_similarity_modes(shuffled) == fit_similarity_modes(similarity) == fit_similarity_modes(similarity[::-1])


def test_same_seed_same_bits_and_torch_is_numpy() -> None:
    similarity = mixture(0.4, 5000)[0].astype(np.float32)
    before = similarity.copy()
    modes = fit_similarity_modes(similarity, seed=3)
    assert modes == fit_similarity_modes(torch.from_numpy(similarity).requires_grad_(), seed=3)
    probability = clean_posterior(similarity, modes)
    assert (probability == clean_posterior(torch.from_numpy(similarity), modes)).all()
    assert (similarity == before).all(), "the caller's array is left alone"
    half = torch.from_numpy(similarity).to(torch.bfloat16)
    assert fit_similarity_modes(half).clean.mean == pytest.approx(CLEAN[0], abs=0.005)


@pytest.mark.parametrize("starts", [1, 2, 5, 8])
def test_starts_and_seeds_agree_where_the_modes_are_plain(starts: int) -> None:
    similarity, _ = mixture(0.1, 5000)
    modes = fit_similarity_modes(similarity, seed=starts, num_starts=starts)
    np.testing.assert_allclose(parameters(modes), parameters(fit_similarity_modes(similarity)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 8])
def test_starts_are_as_many_as_asked_for_and_seeded(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, starts = mixture(0.4, 500)[0], gaussian_modes._starts
    groups = gaussian_modes._grouped(standardised(similarity))
    asked: list[tuple[int, ...]] = []
    found = [[start.means.tolist() for start in starts(groups, seed, number)] for seed in (0, 0, 1)]
    assert [len(means) for means in found] == [number] * 3
    assert found[0] == found[1] and (found[0] != found[2]) == (number > 3), "the first three are not random"

    def recorded(groups: np.ndarray, *given: int) -> Any:
        asked.append(given)
        return starts(groups, *given)

    monkeypatch.setattr(gaussian_modes, "_starts", recorded)
    fit_similarity_modes(similarity, seed=7, num_starts=number)
    assert asked == [(7, number)]


def test_the_likeliest_start_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, _ = mixture(0.4, 5000)
    good = NormalMixture(np.array([-1.0, 1.0]), np.array([0.3, 0.3]), np.array([0.5, 0.5]))
    stuck = NormalMixture(np.array([0.0, 0.0]), np.array([1.0, 1.0]), np.array([0.5, 0.5]))  # no step leaves it
    expected = fit_similarity_modes(similarity)
    for starts in ([stuck, good], [good, stuck]):
        monkeypatch.setattr(gaussian_modes, "_starts", lambda *_, given=starts: iter(given))
        np.testing.assert_allclose(parameters(fit_similarity_modes(similarity)), parameters(expected), atol=1e-4)
    monkeypatch.setattr(gaussian_modes, "_starts", lambda *_: iter([stuck]))
    assert not fit_similarity_modes(similarity).is_split


def test_a_likelier_spike_of_few_pairs_does_not_hide_the_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.9 % of the pairs are equal: a very likely mode, but none to divide by."""
    similarity = apart(2.1, 0.4, 1.0, size=5000)
    similarity[:45] = 0.29
    expected, x = fit_similarity_modes(similarity), (0.29 - similarity.mean()) / similarity.std()
    good = NormalMixture(np.array([-1.0, 1.0]), np.array([0.3, 0.3]), np.array([0.5, 0.5]))
    spike = NormalMixture(np.array([x, 0.0]), np.array([EXTRA_VARIANCE, 1.0]), np.array([0.01, 0.99]))
    assert expected.is_split
    for starts in ([spike, good], [good, spike]):
        monkeypatch.setattr(gaussian_modes, "_starts", lambda *_, given=starts: iter(given))
        np.testing.assert_allclose(parameters(fit_similarity_modes(similarity)), parameters(expected), atol=0.01)
    monkeypatch.setattr(gaussian_modes, "_starts", lambda *_: iter([spike]))
    alone = fit_similarity_modes(similarity, min_separation=0.0)
    assert not alone.is_split and alone.bic_gain > expected.bic_gain and "of 5000 pairs" in alone.note


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    similarity, before = mixture(0.4, 100_003)[0], torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = fit_similarity_modes(similarity)
        torch.set_num_threads(3)
        together = fit_similarity_modes(similarity)
    finally:
        torch.set_num_threads(before)
    assert alone == together


def test_memory_is_a_few_columns() -> None:
    similarity, _ = mixture(0.4, 300_000)
    tracemalloc.start()
    clean_posterior(similarity, fit_similarity_modes(similarity))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4.1 * similarity.nbytes


def test_a_fit_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian_modes, "ROUNDS", 1)
    similarity, _ = mixture(0.4, 3000)
    modes = fit_similarity_modes(similarity)
    assert modes.is_split and not modes.has_converged and "did not converge" in modes.note
    monkeypatch.setattr(gaussian_modes, "ROUNDS", 500)
    assert fit_similarity_modes(similarity).has_converged
