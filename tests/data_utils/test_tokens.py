"""Token ids and their cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_utils import tokens
from data_utils.tokens import OFF, Tokens, cache_folder, read_tokens
from runtime.errors import InputError
from vocab.vocabulary import SPECIAL, Vocabulary

CAPTIONS = ("A dog runs", "a cat", 'a dog, "the" cat', "dogs")
VOCABULARY = Vocabulary([*SPECIAL, "a", "cat", "dog"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A caption file."""
    path = tmp_path / "train_caps.txt"
    path.write_text("\n".join(CAPTIONS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder for the cache, not there yet."""
    return tmp_path / "some" / "cache"


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


def assert_right(found: Tokens, vocabulary: Vocabulary = VOCABULARY) -> None:
    encoded = [vocabulary.encode(caption) for caption in CAPTIONS]
    assert found.ids.tolist() == sum(encoded, [])
    assert found.lengths.tolist() == [len(ids) for ids in encoded]
    assert (found.ids.dtype, found.lengths.dtype) == (np.int32, np.int64)


def test_tokenised_once(path: Path, cache: Path, count: list[int]) -> None:
    for _ in range(3):
        assert_right(read_tokens(path, VOCABULARY, str(cache)))
    assert count == [4]
    assert len(list(cache.iterdir())) == 1


def test_off_keeps_nothing(path: Path, tmp_path: Path, count: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for _ in range(2):
        assert_right(read_tokens(path, VOCABULARY, OFF))
    assert count == [4, 4] and [p.name for p in tmp_path.iterdir()] == ["train_caps.txt"]


def test_the_users_cache(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(None) == tmp_path / "xdg" / "noisy-correspondence" / "tokens"
    read_tokens(path, VOCABULARY)
    assert len(list((tmp_path / "xdg" / "noisy-correspondence" / "tokens").glob("*.npz"))) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder(None) == tmp_path / ".cache" / "noisy-correspondence" / "tokens"
    assert cache_folder(OFF) is None and cache_folder("x") == Path("x")


def test_another_file_vocabulary_layout_or_format_is_another_entry(
    path: Path, cache: Path, count: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, vocabulary: Vocabulary = VOCABULARY) -> Tokens:
        found = read_tokens(path, vocabulary, str(cache))
        assert len(list(cache.iterdir())) == len(count)
        return found

    read(path)
    other = Vocabulary([*SPECIAL, "a", "dog", "cat"])
    assert_right(read(path, other), other)
    tsv = path.with_suffix(".tsv")
    tsv.write_bytes(b"1\ta dog\n")
    assert read(tsv).ids.tolist() == [1, 4, 6, 2]
    text = tsv.with_name("dev_caps.txt")
    text.write_bytes(tsv.read_bytes())
    assert read(text).ids.tolist() == [1, 3, 4, 6, 2]
    path.write_text("a cat\n" * 4, encoding="utf-8")
    assert read(path).ids.tolist() == [1, 4, 5, 2] * 4
    monkeypatch.setattr(tokens, "version", lambda package: "0")
    read(path)
    monkeypatch.setattr(tokens, "FORMAT", 0)
    read(path)
    assert len(count) == 7
    assert read(path.rename(path.with_name("test_caps.txt"))).ids.tolist() == [1, 4, 5, 2] * 4
    assert len(count) == 7, "the place of the file does not matter"


def damaged(**changes: np.ndarray) -> Callable[[Path], None]:
    """Return what writes a cache file again with some arrays changed."""

    def write(place: Path) -> None:
        with np.load(place) as content:
            arrays = {name: changes.get(name, content[name]) for name in content}
        np.savez(place, **arrays)  # type: ignore[arg-type]

    return write


def flip_a_byte(place: Path) -> None:
    content = bytearray(place.read_bytes())
    content[content.index(VOCABULARY.unknown_id.to_bytes(4, "little") * 2)] = 4
    place.write_bytes(content)


IDS, LENGTHS = np.zeros(17, np.int32), np.array([5, 4, 9, 3])


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: place.write_bytes(b""),
        lambda place: place.write_bytes(place.read_bytes()[:-30]),
        lambda place: place.write_bytes(b"not a zip file, and longer than its head"),
        lambda place: np.save(place.open("wb"), np.arange(3)),
        lambda place: np.savez(place, other=np.arange(3)),
        flip_a_byte,
        damaged(key=np.array("another")),
        damaged(key=np.array([None], dtype=object)),
        damaged(ids=np.full(21, 7, np.int32)),
        damaged(ids=np.full(21, -1, np.int32)),
        damaged(ids=np.zeros(20, np.int32)),
        damaged(ids=np.zeros(21, np.int64)),
        damaged(ids=np.zeros((21, 1), np.int32)),
        damaged(lengths=np.array([5, 4, 12])[:, None]),
        damaged(lengths=np.array([20, 1])),
        damaged(lengths=np.array([21.0])),
        damaged(ids=np.zeros(0, np.int32), lengths=np.zeros(0, np.int64)),
    ],
)
def test_a_damaged_or_foreign_file_is_made_anew(
    path: Path, cache: Path, count: list[int], damage: Callable[[Path], None]
) -> None:
    assert len(read_tokens(path, VOCABULARY, str(cache)).ids) == 21
    (place,) = cache.iterdir()
    good = place.read_bytes()
    damage(place)
    assert place.read_bytes() != good
    assert_right(read_tokens(path, VOCABULARY, str(cache)))
    assert count == [4, 4]
    assert place.read_bytes() == good


def test_a_folder_that_cannot_be_written_is_no_fault(path: Path, tmp_path: Path, count: list[int]) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert_right(read_tokens(path, VOCABULARY, str(place)))
    assert len(count) == 2 and (tmp_path / "file").read_bytes() == b""


def test_a_file_that_cannot_be_written_is_no_fault(path: Path, cache: Path) -> None:
    read_tokens(path, VOCABULARY, str(cache))
    (place,) = cache.iterdir()
    place.unlink()
    place.mkdir()
    assert_right(read_tokens(path, VOCABULARY, str(cache)))
    assert [p.name for p in cache.iterdir()] == [place.name], "no half of a file is left"


def test_faulty_captions_are_told_and_not_kept(path: Path, cache: Path) -> None:
    path.write_bytes(b"a\n\nb\n")
    for _ in range(2):
        with pytest.raises(InputError, match="line 2 holds an empty caption"):
            read_tokens(path, VOCABULARY, str(cache))
    assert not cache.exists()


def test_some_of_the_captions(path: Path) -> None:
    some = read_tokens(path, VOCABULARY, OFF).only(np.array([True, False, True, False]))
    assert len(some) == 2
    assert some.ids.tolist() == VOCABULARY.encode(CAPTIONS[0]) + VOCABULARY.encode(CAPTIONS[2])
