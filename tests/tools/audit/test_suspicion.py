"""Near-duplicates, suspicion, precision, and the cleaned index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_utils.noise import NoiseConfig, inject, measure
from runtime.errors import InputError
from tools.audit import subject
from tools.audit.partners import NOBODY, Partners, Standing
from tools.audit.subject import near_groups, normalised, precisions, suspicion
from tools.audit.written import cleaned_index, write_cleaned
from tools.noise import disagreements, read_sidecar


def standing(ranks: list[int]) -> Standing:
    return Standing(np.array(ranks), np.full(len(ranks), NOBODY), np.full(len(ranks), np.nan))


def test_suspicion_by_hand() -> None:
    """Pair 2 is the worst in everything, pair 0 the best; pair 1 lies between."""
    partners = Partners(standing([1, 4, 9]), standing([1, 9, 9]))
    signals = [np.array([0.0, 0.1, 0.9]), np.array([0.1, 0.0, 0.9])]
    values = suspicion(signals, np.array([0.9, 0.5, -0.2]), partners)
    np.testing.assert_allclose(values, [0.25 / 3, (0.25 + 0.5 + 0.5) / 3, 1.0])


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A  Dog, running!", "a dog running"),
        ("ＡＢＣ", "abc"),
        ("Straße", "strasse"),
        ("???", "???"),
        ("snake_case 3.5", "snake_case 3 5"),
    ],
)
def test_what_is_left_of_a_text(text: str, expected: str) -> None:
    assert normalised(text) == expected


def chained() -> np.ndarray:
    """Return rows of which 1, 4 and 6 hang together (1 and 6 only by way of 4), 0 is the opposite of 5."""
    angles = np.radians([0, 90, 200, 300, 97, 180, 104, 30])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def naive(vectors: np.ndarray, threshold: float) -> list[int]:
    """Link one pair after the other, and give every row the lowest number that it reaches."""
    centred = vectors - vectors.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    group = list(range(len(vectors)))
    for _ in vectors:
        for i in range(len(vectors)):
            for j in range(len(vectors)):
                if i != j and unit[i] @ unit[j] > threshold:
                    group[i] = group[j] = min(group[i], group[j])
    return group


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_groups_as_the_twin(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "ROWS", rows)
    assert near_groups(chained(), 0.985).tolist() == naive(chained(), 0.985)
    random = np.random.default_rng(0).standard_normal((23, 3))
    assert near_groups(random, 0.8).tolist() == naive(random, 0.8)
    assert len(set(naive(random, 0.8))) not in (1, 23), "the case says something"


def test_a_threshold_that_joins_everything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MOST_NEAR", 3)
    with pytest.raises(InputError, match="--duplicate_cosine 0.5 .* raise it"):
        near_groups(np.repeat(chained(), 4, axis=0), 0.5)
