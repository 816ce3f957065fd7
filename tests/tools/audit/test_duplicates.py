"""Near-duplicates."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import InputError
from tools.audit import subject
from tools.audit.subject import near_groups, normalised


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
