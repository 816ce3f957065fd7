"""Tokens and ids of captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_utils.captions import read_captions
from runtime.errors import InputError
from vocab import build
from vocab.vocabulary import SPECIAL, Vocabulary, tokenize

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "vocab" / "emoji_precomp_vocab.json"


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A dog runs", ["a", "dog", "runs"]),
        ("a dog runs .", ["a", "dog", "runs", "."]),
        (
            "Two dogs, one black and one white, run.",
            ["two", "dogs", ",", "one", "black", "and", "one", "white", ",", "run", "."],
        ),
        (
            "A man's hat is red. He can't see it!",
            ["a", "man", "'s", "hat", "is", "red", ".", "he", "ca", "n't", "see", "it", "!"],
        ),
        (
            'It costs $5.50 (really)?  "Yes", she said.',
            ["it", "costs", "$", "5.50", "(", "really", ")", "?", "``", "yes", "''", ",", "she", "said", "."],
        ),
        (
            "a red-and-white wi-fi sign; 3 o'clock...",
            ["a", "red-and-white", "wi-fi", "sign", ";", "3", "o'clock", "..."],
        ),
        ("Dogs & cats: 100% fun", ["dogs", "&", "cats", ":", "100", "%", "fun"]),
        ("  A café in Zürich  ", ["a", "café", "in", "zürich"]),
    ],
)
def test_tokens(caption: str, tokens: list[str]) -> None:
    assert tokenize(caption) == tokens


def test_build_keeps_words_seen_often_enough() -> None:
    captions = ["b a", "B a", "b a c", "b c"]
    assert Vocabulary.build(captions, min_count=3).words == (*SPECIAL, "a", "b")
    assert Vocabulary.build(captions, min_count=4).words == (*SPECIAL, "b")
    assert Vocabulary.build(captions, min_count=5).words == SPECIAL
    assert Vocabulary.build(captions).words == (*SPECIAL, "b")


def test_encode() -> None:
    vocabulary = Vocabulary([*SPECIAL, "a", "dog"])
    assert vocabulary.encode("A dog barks") == [1, 4, 5, 3, 2]
    assert vocabulary.unknown_id == 3


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "x_vocab.json"
    vocabulary = Vocabulary([*SPECIAL, "a", "café"])
    vocabulary.save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["word2idx"]["café"] == 5 and content["idx2word"]["5"] == "café" and content["idx"] == 6
    loaded = Vocabulary.load(path)
    assert loaded.words == vocabulary.words
    assert loaded.digest() == vocabulary.digest()
    assert [p.name for p in tmp_path.iterdir()] == ["x_vocab.json"]


def test_the_digest_tells_order_and_words() -> None:
    digest = Vocabulary([*SPECIAL, "a", "b"]).digest()
    assert digest == "254ba9bfb49cc05a1ea7ba3d1ba45e957db40ab08d9448f59570afc00d4f476b"
    assert digest != Vocabulary([*SPECIAL, "b", "a"]).digest()
    assert digest != Vocabulary([*SPECIAL, "a"]).digest()


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"idx": 3}',
        '{"word2idx": 3}',
        '{"word2idx": {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 4}}',
        '{"word2idx": {"<start>": 0, "<pad>": 1, "<end>": 2, "<unk>": 3}}',
        '{"word2idx": {"<pad>": 0, "<start>": "1"}}',
    ],
)
def test_a_broken_vocabulary_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x_vocab.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="vocabulary"):
        Vocabulary.load(path)


def test_a_missing_vocabulary_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vocab.build"):
        Vocabulary.load(tmp_path / "x_vocab.json")


def test_a_repeated_word_is_refused() -> None:
    with pytest.raises(InputError, match="once"):
        Vocabulary([*SPECIAL, "a", "a"])


def test_the_build_command(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new"
    common = ["--data_path", str(tiny_root / "data"), "--data_name", "tiny_precomp", "--vocab_path", str(target)]
    build.main(common)
    made, given = target / "tiny_precomp_vocab.json", tiny_root / "vocab" / "tiny_precomp_vocab.json"
    assert made.read_bytes() == given.read_bytes()
    assert str(made) in capsys.readouterr().out
    build.main([*common, "--min_count", "1000"])
    assert len(Vocabulary.load(made)) == 4


@pytest.mark.skipif(not EMBEDDED.is_file(), reason="the embedded vocabulary is not there")
def test_the_embedded_vocabulary_is_what_its_captions_give() -> None:
    folder = ROOT / "data" / "emoji_precomp"
    captions = [c for split in ("train", "dev") for c in read_captions(folder, split)]
    assert Vocabulary.load(EMBEDDED).words == Vocabulary.build(captions).words
