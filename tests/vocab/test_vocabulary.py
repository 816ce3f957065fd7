"""Tokens and ids of captions."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.captions import read_captions
from runtime.errors import InputError
from vocab import build
from vocab import vocabulary as module
from vocab.vocabulary import SPECIAL, Vocabulary, tokenize, tokenize_by_nltk

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "vocab" / "emoji_precomp_vocab.json"


def is_plain(caption: str) -> bool:
    """Tell whether a caption is split without NLTK."""
    text = caption.lower()
    return module._PLAIN.fullmatch(text) is not None and module._UNLIKE.search(text) is None


WORDS = st.sampled_from(
    """a dog runs 3 1,000 3.50 red-and-white dog's dogs' isn't o'clock cannot can't gimme gonna gotta lemme wanna not
    'tis 'twas d'ye more'n whaddya wha'dya whatcha me.na 's 't , . - -- ... ! ? ; : ( ) " '' ` `` & % $5 mr. u.s. \u212a
    café \u2019s 5th st. 10:30 dog, dog. ,5 ,, wan-na can-not gon na wanna, cannot. GONNA I'm he'll""".split()
)
SEPARATORS = st.sampled_from([" ", " ", " ", "", "  ", "-", ",", ", ", ".", ". ", "'", "'s ", "\t", "\u00a0"])


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.tuples(WORDS, SEPARATORS), max_size=12))
def test_ordinary_captions_get_nltks_tokens(parts: list[tuple[str, str]]) -> None:
    caption = "".join(word + separator for word, separator in parts)
    assert tokenize(caption) == tokenize_by_nltk(caption)


def test_every_short_text_of_ordinary_characters_gets_nltks_tokens() -> None:
    """All arrangements of up to five characters: every rule of NLTK that looks at neighbours sees its neighbours."""
    for length in range(6):
        for characters in product("as1 ,-.'", repeat=length):
            text = "".join(characters)
            if is_plain(text):
                assert tokenize(text) == tokenize_by_nltk(text), text


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_embedded_captions_get_nltks_tokens(split: str) -> None:
    captions = read_captions(ROOT / "data" / "emoji_precomp", split)
    assert [tokenize(c) for c in captions] == [tokenize_by_nltk(c) for c in captions]
    assert sum(map(is_plain, captions)) > 0.9 * len(captions)


def test_all_captions_at_once_get_the_same_ids() -> None:
    words = Vocabulary([*SPECIAL, "a", "dog"])
    captions = ["A dog barks", "a", 'dog, "dog"', "a. a!"]
    ids, lengths = words.encode_all(iter(captions))
    assert (ids.dtype, lengths.dtype) == ("int32", "int64")
    assert ids.tolist() == [k for caption in captions for k in words.encode(caption)]
    assert lengths.tolist() == [len(words.encode(caption)) for caption in captions]
    assert [len(part) for part in words.encode_all([])] == [0, 0]


def test_build_keeps_words_seen_often_enough() -> None:
    captions = ["b a", "B a", "b a c", "b c"]
    assert Vocabulary.build(captions, min_count=3).words == (*SPECIAL, "a", "b")
    assert Vocabulary.build(captions, min_count=4).words == (*SPECIAL, "b")
    assert Vocabulary.build(captions, min_count=5).words == SPECIAL
    assert Vocabulary.build(captions).words == (*SPECIAL, "b")


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


def test_the_build_command(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new"
    common = ["--data_path", str(tiny_root / "data"), "--data_name", "tiny_precomp", "--vocab_path", str(target)]
    build.main(common)
    made, given = target / "tiny_precomp_vocab.json", tiny_root / "vocab" / "tiny_precomp_vocab.json"
    assert made.read_bytes() == given.read_bytes()
    said = capsys.readouterr().out
    assert f"{made}: {len(Vocabulary.load(made))} words, each seen 4 times or more in 240 captions: 100.0 %" in said
    build.main(common)
    assert made.read_bytes() == given.read_bytes(), "the same words may be written again"


def build_fails(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """Build a vocabulary with flags that cannot work; return what is said."""
    with pytest.raises(SystemExit) as caught:
        build.main(list(flags))
    assert caught.value.code == 2
    out, line = capsys.readouterr()
    assert not out and line.count("\n") == 1
    return line


@pytest.mark.parametrize("content", [None, "not a vocabulary"])
def test_another_vocabulary_is_not_replaced_unasked(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    common = ["--data_path", str(tiny_root / "data"), "--data_name", "tiny_precomp", "--vocab_path", str(tmp_path)]
    path = tmp_path / "tiny_precomp_vocab.json"
    if content is None:
        Vocabulary([*SPECIAL, "zebra"]).save(path)
    else:
        path.write_text(content, encoding="utf-8")
    before = path.read_bytes()
    line = build_fails(capsys, *common)
    assert str(path) in line and "--replace" in line and path.read_bytes() == before
    build.main([*common, "--min_count", "40", "--replace"])
    said = capsys.readouterr().out
    words = Vocabulary.load(path)
    assert "zebra" not in words.words and f"{len(words)} words, each seen 40 times" in said
    assert 4 < len(words) < len(Vocabulary.load(tiny_root / "vocab" / path.name))
    assert float(said.split(": ")[-1].split(" %")[0]) < 100


def test_a_vocabulary_of_no_words_is_not_written(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--data_path", str(tiny_root / "data"), "--data_name", "tiny_precomp", "--vocab_path", str(tmp_path)]
    assert "1000 times; lower --min_count" in build_fails(capsys, *common, "--min_count", "1000")
    assert "--min_count 0" in build_fails(capsys, *common, "--min_count", "0")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not EMBEDDED.is_file(), reason="the embedded vocabulary is not there")
def test_the_embedded_vocabulary_is_what_its_captions_give() -> None:
    """But for `.`, of 21 captions with `mrs.`: it was built when that was two tokens, and results go with it."""
    folder = ROOT / "data" / "emoji_precomp"
    captions = [c for split in ("train", "dev") for c in read_captions(folder, split)]
    stored = Vocabulary.load(EMBEDDED).words
    built = Vocabulary.build(captions).words
    assert [word for word in stored if word not in ("mrs", ".")] == [word for word in built if word != "mrs."]
