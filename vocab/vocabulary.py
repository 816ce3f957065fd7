"""Words to ids: SCAN's JSON vocabulary and its tokens.

File layout: {"word2idx": {word: id}, "idx2word": {"id": word}, "idx": number of words}; ids 0-3 are
`<pad> <start> <end> <unk>`. Tokens are those of NLTK's `word_tokenize` (with its Punkt data) on the lower-cased
caption; vocab/README.md says how that is known, and where published vocabularies differ.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import InputError
from runtime.files import kind_of_file, parse_json, write_atomically
from vocab.sentences import split_sentences

if TYPE_CHECKING:
    from nltk.tokenize import NLTKWordTokenizer

PAD, START, END, UNK = "<pad>", "<start>", "<end>", "<unk>"
SPECIAL = (PAD, START, END, UNK)


@cache
def _word_tokenizer() -> NLTKWordTokenizer:
    from nltk.tokenize import NLTKWordTokenizer  # here: it takes long to load

    return NLTKWordTokenizer()


_PLAIN = re.compile(r"[a-z0-9 ,'-]*\.? *")
_UNLIKE = re.compile(r"--|,[0-9,]|'(?!s(?:[ ,.]|$))|cannot|gimme|gonna|gotta|lemme|wanna")
"""A caption that matches the first whole and the second nowhere is split without NLTK. Its rules, one by one:
- sentences: the only `.`, `!` or `?` is a period that nothing but spaces follows, so that there is one sentence;
- a final period is set apart, a single hyphen is left alone (two are not: `--`);
- a comma is set apart unless a digit follows (1,000); of two commas in a row the second may not be (`,,`);
- of the rules for apostrophes only that for 's at the end of a word is needed;
- contractions in two words are found inside hyphens too, so that their letters anywhere are left to NLTK; the others
  ('tis, d'ye, more'n) have an apostrophe before something other than s.
"""


def tokenize(caption: str) -> list[str]:
    """Split a caption into lower-cased tokens: those of `tokenize_by_nltk`, faster for ordinary captions."""
    text = caption.lower()
    if _PLAIN.fullmatch(text) is None or _UNLIKE.search(text) is not None:
        return tokenize_by_nltk(caption)
    return text.replace(",", " , ").replace("'s", " 's").replace(".", " .").split()


def tokenize_by_nltk(caption: str) -> list[str]:
    """Split a caption into lower-cased tokens as the published code does: `nltk.word_tokenize`, which needs no data."""
    return [token for sentence in split_sentences(caption.lower()) for token in _word_tokenizer().tokenize(sentence)]


class Vocabulary:
    """Word ids 0 .. n-1, the first four special.

    Args:
        words: all words in id order, the four special ones first.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        if self.words[: len(SPECIAL)] != SPECIAL:
            raise InputError(f"a vocabulary starts with {' '.join(SPECIAL)}; this one with {self.words[:4]}")
        self._id = {word: k for k, word in enumerate(self.words)}
        if len(self._id) != len(self.words):
            raise InputError("a vocabulary holds each word once; this one repeats some")

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int = 4) -> Vocabulary:
        """Collect the words seen at least `min_count` times, in alphabetical order."""
        counts = Counter(token for caption in captions for token in tokenize(caption))
        return cls((*SPECIAL, *sorted(word for word, n in counts.items() if n >= min_count and word not in SPECIAL)))

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read SCAN's JSON.

        Raises:
            InputError: the file is missing or is not such a vocabulary.
        """
        if not path.is_file():
            raise InputError(
                f"no vocabulary at {path}; set --vocab_path, or make one with "
                "python -m vocab.build --data_path DIR --data_name NAME"
            )
        if kind := kind_of_file(path):
            raise InputError(f"{path} {kind}")
        try:
            word2idx = parse_json(path.read_bytes())["word2idx"]
            words = sorted(word2idx, key=word2idx.__getitem__)
            is_dense = [word2idx[word] for word in words] == list(range(len(words)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a vocabulary (JSON with word2idx, idx2word, idx): {error}") from None
        if not is_dense:
            raise InputError(f"{path} is not a vocabulary: its ids are not 0 .. {len(words) - 1}, each once")
        try:
            return cls(words)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def save(self, path: Path) -> None:
        """Write SCAN's JSON."""
        content = {
            "word2idx": self._id,
            "idx2word": {str(k): word for k, word in enumerate(self.words)},
            "idx": len(self.words),
        }
        write_atomically(path, json.dumps(content, ensure_ascii=False, indent=0).encode("utf-8"))

    def encode(self, caption: str) -> list[int]:
        """Return `<start> w1 .. wn <end>` as ids; unknown words become `<unk>`."""
        unknown = self._id[UNK]
        return [
            self._id[START],
            *(self._id.get(token, unknown) for token in tokenize(caption)),
            self._id[END],
        ]

    def encode_all(self, captions: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return what `encode` returns for every caption: all ids one after the other, int32, and lengths, int64."""
        ids, lengths = array("i"), array("q")
        for caption in captions:
            encoded = self.encode(caption)
            lengths.append(len(encoded))
            ids.extend(encoded)
        return np.asarray(ids, dtype=np.int32), np.asarray(lengths, dtype=np.int64)

    @property
    def unknown_id(self) -> int:
        """Id of `<unk>`."""
        return self._id[UNK]

    def digest(self) -> str:
        """Return a hash of the words in their order; equal digests give equal ids."""
        return hashlib.sha256("\n".join(self.words).encode("utf-8")).hexdigest()
