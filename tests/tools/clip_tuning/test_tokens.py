"""Merges against a slow twin, the trained tokeniser, token ids."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from runtime.errors import InputError
from tools.clip_tuning.merges import END, learn_merges, spell
from tools.clip_tuning.tokens import MIN_TOKENS, check_tokenizer, load_tokenizer, tokenize, train_tokenizer

CAPTIONS = ["a red dog", "the Red Dogs", "no bicycles", "red reddish redder", "café 漢字 12", "dog's bowl"]


def slow_merges(words: dict[str, int], most: int) -> list[tuple[str, str]]:
    """Count every pair anew for each merge."""
    spelt = {word: spell(word) for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < most:
        counts: Counter[tuple[str, str]] = Counter()
        for word, symbols in spelt.items():
            for pair in zip(symbols, symbols[1:], strict=False):
                counts[pair] += words[word]
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        merges.append(best)
        for word, symbols in spelt.items():
            out: list[str] = []
            for symbol in symbols:
                if out and (out[-1], symbol) == best and not (len(out) > 1 and out[-1] == "\0"):
                    out[-1:] = ["".join(best), "\0"]  # a mark, so that a joined symbol is not joined again
                else:
                    out.append(symbol)
            spelt[word] = [symbol for symbol in out if symbol != "\0"]
    return merges


def test_merges_by_hand() -> None:
    assert learn_merges({"low": 5, "lot": 2}, 10) == [("l", "o"), ("lo", "w</w>"), ("lo", "t</w>")]
    assert learn_merges({"low": 5, "lot": 2}, 1) == [("l", "o")]
    assert learn_merges({"ab": 1}, 10) == []
    assert learn_merges({"cb": 2, "ab": 2}, 1) == [("a", "b</w>")]  # a tie goes to the first in the alphabet
    assert learn_merges({"aaaa": 3}, 2) == [("a", "a"), ("a", "a</w>")]


@pytest.mark.parametrize("seed", range(20))
def test_merges_equal_the_slow_ones(seed: int) -> None:
    draw = random.Random(seed)
    words = {"".join(draw.choices("abc", k=draw.randint(1, 7))): draw.randint(1, 4) for _ in range(12)}
    assert learn_merges(words, 25) == slow_merges(words, 25)


def test_training_twice_gives_the_same_tokeniser() -> None:
    one, two = (train_tokenizer(CAPTIONS, MIN_TOKENS + 20) for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    assert len(one) <= MIN_TOKENS + 20


def test_frequent_words_become_tokens_and_nothing_is_unknown() -> None:
    tokenizer = train_tokenizer(CAPTIONS, MIN_TOKENS + 30)
    assert tokenizer.convert_tokens_to_ids("red" + END) > 1
    ids = tokenize(tokenizer, ["ÿ unseen 漢 ✂"], 77).ids[0]
    assert (ids[1:-1] > 1).all()  # neither start nor end, which also stands for unknown
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == "ÿ unseen 漢 ✂".split()


def test_ids_are_cut_before_the_end_and_padded_with_it() -> None:
    tokenizer = train_tokenizer(CAPTIONS, MIN_TOKENS)
    tokens = tokenize(tokenizer, ["a b c d e f", "a"], 5)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert tokens.ids.shape == (2, 5) and tokens.lengths.tolist() == [5, 3]
    assert (tokens.ids[:, 0] == start).all() and tokens.ids[0, 4] == end and (tokens.ids[1, 2:] == end).all()
    rows = tokens.rows(np.array([1, 1]))
    assert torch.equal(rows.ids, tokens.ids[[1, 1], :3]) and len(rows) == 2


def test_saved_and_loaded(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(CAPTIONS, MIN_TOKENS + 20)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert torch.equal(tokenize(tokenizer, CAPTIONS, 12).ids, tokenize(loaded, CAPTIONS, 12).ids)


def test_no_tokeniser(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokeniser that can be loaded"):
        load_tokenizer(tmp_path)


def test_a_tokeniser_of_another_model(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(CAPTIONS, MIN_TOKENS)
    size, end = len(tokenizer), tokenizer.eos_token_id
    check_tokenizer(tokenizer, tmp_path, vocab_size=size, end=end)
    with pytest.raises(InputError, match=f"has {size} tokens, the model {size - 1}"):
        check_tokenizer(tokenizer, tmp_path, vocab_size=size - 1, end=end)
    with pytest.raises(InputError, match=f"pools captions at token 7, but the tokeniser ends them with {end}"):
        check_tokenizer(tokenizer, tmp_path, vocab_size=size, end=7)
    with pytest.raises(InputError, match=f"pools captions at token {size - 1}"):
        check_tokenizer(tokenizer, tmp_path, vocab_size=size, end=2)
