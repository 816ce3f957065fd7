"""Token ids and their cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_utils import captions as module
from data_utils.captions import Tokens, cache_folder, parse_captions, read_tokens
from vocab.vocabulary import SPECIAL, Vocabulary

CAPTIONS = ("A dog runs", "a cat", 'a dog, "the" cat', "dogs")
TEXT = "\n".join(CAPTIONS).encode()
VOCABULARY = Vocabulary([*SPECIAL, "a", "cat", "dog"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "noisy-correspondence" / "tokens"


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever captions are tokenised."""
    calls: list[int] = []
    encode_all = Vocabulary.encode_all

    def counted(self: Vocabulary, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
        calls.append(len(captions))
        return encode_all(self, captions)

    monkeypatch.setattr(Vocabulary, "encode_all", counted)
    return calls


def read(content: bytes = TEXT, name: str = "train_caps.txt", vocabulary: Vocabulary = VOCABULARY) -> Tokens:
    return read_tokens(parse_captions(Path(name), content), vocabulary)


def assert_right(found: Tokens, vocabulary: Vocabulary = VOCABULARY) -> None:
    encoded = [vocabulary.encode(caption) for caption in CAPTIONS]
    assert found.ids.tolist() == sum(encoded, [])
    assert found.lengths.tolist() == [len(ids) for ids in encoded]
    assert (found.ids.dtype, found.lengths.dtype) == (np.int32, np.int64)


def test_tokenised_once_in_the_users_cache(
    cache: Path, count: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        assert_right(read())
    assert count == [4] and len(list(cache.glob("*.npz"))) == len(list(cache.iterdir())) == 1
    assert cache_folder() == cache
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / ".cache" / "noisy-correspondence" / "tokens"


def test_another_file_vocabulary_layout_or_format_is_another_entry(
    cache: Path, count: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read()
    other = Vocabulary([*SPECIAL, "a", "dog", "cat"])
    assert_right(read(vocabulary=other), other)
    assert read(b"1\ta dog\n", "train_caps.tsv").ids.tolist() == [1, 4, 6, 2]
    assert read(b"1\ta dog\n", "dev_caps.txt").ids.tolist() == [1, 3, 4, 6, 2]
    assert read(b"a cat\n" * 4).ids.tolist() == [1, 4, 5, 2] * 4
    monkeypatch.setattr(module, "version", lambda package: "0")
    read()
    monkeypatch.setattr(module, "TOKEN_FORMAT", 0)
    read()
    assert len(count) == len(list(cache.iterdir())) == 7
    read(name="elsewhere/test_caps.txt")
    assert len(count) == 7, "the place of the file does not matter"


def damaged(**changes: np.ndarray) -> Callable[[Path], None]:
    """Return what writes a cache file again with some arrays changed."""

    def write(place: Path) -> None:
        with np.load(place) as content:
            arrays = {name: changes.get(name, content[name]) for name in content}
        np.savez(place, **arrays)  # type: ignore[arg-type]

    return write


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: place.write_bytes(place.read_bytes()[:-30]),
        lambda place: np.save(place.open("wb"), np.arange(3)),
        lambda place: np.savez(place, other=np.arange(3)),
        damaged(key=np.array("another")),
        damaged(key=np.array([None], dtype=object)),
        damaged(ids=np.full(21, 7, np.int32)),
        damaged(ids=np.full(21, -1, np.int32)),
        damaged(ids=np.zeros(20, np.int32)),
        damaged(ids=np.zeros(21, np.int64)),
        damaged(ids=np.zeros((21, 1), np.int32)),
        damaged(lengths=np.array([5, 4, 12])),
        damaged(lengths=np.array([18, 1, 1, 1])),
        damaged(lengths=np.array([5.0, 4.0, 9.0, 3.0])),
    ],
)
def test_a_damaged_or_foreign_file_is_made_anew(cache: Path, count: list[int], damage: Callable[[Path], None]) -> None:
    assert len(read().ids) == 21
    (place,) = cache.iterdir()
    damage(place)
    assert_right(read())
    assert_right(read())
    assert count == [4, 4]


def test_a_cache_that_cannot_be_written_is_no_fault(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "xdg").write_bytes(b"")
    assert_right(read())
    (tmp_path / "xdg").unlink()
    read()
    (place,) = cache.iterdir()
    place.unlink()
    place.mkdir()
    assert_right(read())
    assert [p.name for p in cache.iterdir()] == [place.name], "no half of a file is left"


def test_some_of_the_captions() -> None:
    some = read().only(np.array([True, False, True, False]))
    assert len(some) == 2
    assert some.ids.tolist() == VOCABULARY.encode(CAPTIONS[0]) + VOCABULARY.encode(CAPTIONS[2])
