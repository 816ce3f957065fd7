"""Suspicion, precision, and the cleaned index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_utils.noise import NoiseConfig, disagreements, inject, measure, read_sidecar
from tools.audit.partners import NOBODY, Partners, Standing
from tools.audit.subject import most_suspicious_first, precisions, suspicion
from tools.audit.written import cleaned_index, write_cleaned


def standing(ranks: list[int]) -> Standing:
    return Standing(np.array(ranks), np.full(len(ranks), NOBODY), np.full(len(ranks), np.nan))


def test_suspicion_by_hand() -> None:
    """Pair 2 is the worst in everything, pair 0 the best; pair 1 lies between."""
    partners = Partners(standing([1, 4, 9]), standing([1, 9, 9]))
    signals = [np.array([0.0, 0.1, 0.9]), np.array([0.1, 0.0, 0.9])]
    values = suspicion(signals, np.array([0.9, 0.5, -0.2]), partners)
    np.testing.assert_allclose(values, [0.25 / 3, (0.25 + 0.5 + 0.5) / 3, 1.0])
    assert most_suspicious_first(values).tolist() == [2, 1, 0]


@pytest.mark.parametrize("part", ["signal", "similarity", "i2t", "t2i"])
def test_each_part_alone_makes_a_pair_suspicious(part: str) -> None:
    signal, similarity, ranks = np.zeros(3), np.zeros(3), {"i2t": [1, 1, 1], "t2i": [1, 1, 1]}
    if part in ranks:
        ranks[part][1] = 5
    signal[1], similarity[1] = float(part == "signal"), -float(part == "similarity")
    values = suspicion([signal], similarity, Partners(standing(ranks["i2t"]), standing(ranks["t2i"])))
    assert values.argmax() == 1 and values[0] == values[2]


def test_precision_among_the_first() -> None:
    is_mismatched = np.zeros(600, dtype=bool)
    is_mismatched[:150] = True
    assert precisions(np.arange(600), is_mismatched) == {100: 1.0, 500: 0.3}
    assert precisions(np.arange(600)[::-1], is_mismatched) == {100: 0.0, 500: 50 / 500}


def test_suspects_get_the_image_that_fits_better() -> None:
    cleaned = cleaned_index(np.array([0, 0, 1, 2]), np.array([0.9, 0.5, 0.1, 0.2]), np.array([2, 1, NOBODY, 0]), 0.5)
    assert cleaned.is_suspect.tolist() == [False, True, True, True]
    assert cleaned.is_moved.tolist() == [False, True, False, True]
    assert cleaned.index.tolist() == [0, 1, 1, 0] and cleaned.index.dtype == np.int64
    unread = np.array([False, True, False, False])
    cleaned = cleaned_index(np.array([0, 0]), np.zeros(2), np.array([2, 1]), 0.5, unread[:2])
    assert cleaned.is_suspect.all() and cleaned.index.tolist() == [2, 0], "what nobody can read keeps its image"


def test_the_written_index_is_a_noise_file(tmp_path: Path) -> None:
    cleaned = cleaned_index(np.array([0, 0, 1, 2, 2, 1]), np.zeros(6), np.array([2, NOBODY, 0, 1, 1, 0]), 0.5)
    path, own = tmp_path / "cleaned_index.npy", np.array([0, 0, 1, 1, 2, 2])
    write_cleaned(path, cleaned, own)
    index, report = inject(NoiseConfig(noise_file=str(path)), own)
    np.testing.assert_array_equal(index, cleaned.index)
    sidecar = read_sidecar(path)
    assert sidecar is not None and disagreements(path, measure(index, own, 0.0), sidecar) == []
    assert sidecar["ratio"] == report.measured_ratio == 4 / 6
