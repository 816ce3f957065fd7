"""Tokens of captions with abbreviations, quotes, several sentences: those of `nltk.word_tokenize` with Punkt's data."""

from __future__ import annotations

import random

import nltk
import pytest
from nltk.tokenize.punkt import PunktTokenizer

from vocab.sentences import ABBREVIATIONS, SEEN_IN_LOWER_CASE, split_sentences
from vocab.vocabulary import tokenize, tokenize_by_nltk

WORD_TOKENIZE = {
    "Mr. Smith lives in the U.S. and drives a 4 x 4.": "mr. smith lives in the u.s. and drives a 4 x 4 .",
    "A sign reads “no parking”.": "a sign reads “ no parking ” .",
    "A man's 'best' friend": "a man 's ' best ' friend",
    '"Stop!" she said.': "`` stop ! '' she said .",
    "He said ``hi''": "he said `` hi ''",
    "a woman’s hat": "a woman ’ s hat",
    "don’t walk": "don ’ t walk",
    "a dog--or a cat--runs": "a dog -- or a cat -- runs",
    "she is 5'6\" tall": "she is 5'6 '' tall",
    "it's 10:30 a.m. now": "it 's 10:30 a.m. now",
    "costs $3.50, 1,000 people": "costs $ 3.50 , 1,000 people",
    "a (red) [blue] {green} <tag>": "a ( red ) [ blue ] { green } < tag >",
    "e.g. a dog etc. and so on": "e.g . a dog etc . and so on",
    "i.e. cats vs. dogs": "i.e . cats vs. dogs",
    "e-mail me@site.com #fun @home": "e-mail me @ site.com # fun @ home",
    "AT&T & co.": "at & t & co .",
    "he can't, won't, cannot, gonna": "he ca n't , wo n't , can not , gon na",
    "d'ye see 'twas": "d 'ye see ' twas",
    "«bonjour» dit-il": "« bonjour » dit-il",
    "'90s music": "' 90s music",
    "O'Brien's pub": "o'brien 's pub",
    "a.m. b.c. d.": "a.m. b.c . d .",
    "St. Patrick's day. Green hats.": "st. patrick 's day . green hats .",
    "number 3. he runs": "number 3. he runs",
    "...and then": "... and then",
    "w/ a cat; b: c": "w/ a cat ; b : c",
    "a \\ b | c ~ d ^ e * f = g + h": "a \\ b | c ~ d ^ e * f = g + h",
    "hello…": "hello…",
    'quote " unbalanced': "quote `` unbalanced",
    "x² + y²": "x² + y²",
    "the dog .The cat.": "the dog .the cat .",
    "i'm i'd i've i'll": "i 'm i 'd i 've i 'll",
    "more'n whaddya": "more 'n whaddya",
    "1,5": "1,5",
    "don't. stop": "do n't . stop",
    'he said: "hi." then left': "he said : `` hi . '' then left",
    "(he left.) then": "( he left . ) then",
    'go!" he said': "go ! '' he said",
    "a: 1:1 :) :-(": "a : 1:1 : ) : - (",
    "http://a.com/b?c=d": "http : //a.com/b ? c=d",
    'he\'s "the man".': "he 's `` the man '' .",
    "in the u.s.": "in the u.s .",
    "Mrs. Claus and Dr. X meet on Wed. Dec. 24. They eat.": "mrs. claus and dr. x meet on wed. dec. 24. they eat .",
    "A 5 ft. tall man vs. a 6 ft. tall woman. Who wins?": "a 5 ft. tall man vs. a 6 ft. tall woman . who wins ?",
    "He works for Acme Inc. in Washington, D.C. It rains.": "he works for acme inc. in washington , d.c. it rains .",
    "The U.K. plays the U.S.A. at 7 p.m. The crowd cheers!": "the u.k. plays the u.s.a. at 7 p.m. the crowd cheers !",
    "It is Jan. 1. 2 men walk. 3 women run.": "it is jan. 1 . 2 men walk . 3 women run .",
    "Two dogs... one cat . . . and a bird.": "two dogs ... one cat . . . and a bird .",
    "\"Go!\" he says. 'Why?' she asks.": "`` go ! '' he says . ' why ? ' she asks .",
    "A girl (about 8 yrs. old) smiles.": "a girl ( about 8 yrs . old ) smiles .",
}
"""Caption -> its tokens, as nltk 3.10.4 with the English data of punkt_tab gives them for the lower-cased caption."""


def has_punkt() -> bool:
    """Tell whether NLTK's data, a separate download, are on this machine."""
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True


def test_tokens_are_those_of_word_tokenize() -> None:
    found = {caption: (" ".join(tokenize(caption)), " ".join(tokenize_by_nltk(caption))) for caption in WORD_TOKENIZE}
    assert found == {caption: (tokens, tokens) for caption, tokens in WORD_TOKENIZE.items()}
    assert tokenize("") == []


def test_an_abbreviation_keeps_its_period_and_its_sentence() -> None:
    assert len(ABBREVIATIONS) > 100
    for word in ABBREVIATIONS:
        for text in (f"the {word}. and x", f"the pre-{word}. and x"):
            assert split_sentences(text) == [text]
        assert split_sentences(f"the {word}x. and x") == [f"the {word}x.", "and x"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("number 3. he runs", ["number 3. he runs"]),
        ("number 3. 4 dogs run", ["number 3.", "4 dogs run"]),
        ("plan q. he runs", ["plan q. he runs"]),
        ("3. administrators run", ["3.", "administrators run"]),
        ("wait... he runs", ["wait... he runs"]),
        ("wait . . . he runs", ["wait .", ".", ".", "he runs"]),
        ("a dog! a cat? a cow. a pig", ["a dog!", "a cat?", "a cow.", "a pig"]),
        ('she says "stop." he runs', ['she says "stop."', "he runs"]),
        ("(he left.) she runs", ["(he left.)", "she runs"]),
        ("  a dog.  ", ["  a dog."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@pytest.mark.skipif(not has_punkt(), reason="NLTK's Punkt data are not installed")
def test_sentences_are_those_of_the_installed_data() -> None:
    """Random texts of all that Punkt looks at, split with the trained data and without."""
    trained, dice = PunktTokenizer(), random.Random(0)
    known = trained._params
    assert known.abbrev_types - {". . "} == ABBREVIATIONS
    words = [*known.ortho_context, *SEEN_IN_LOWER_CASE * 500]
    pools = (
        *([f"{word}." for word in sorted(known.abbrev_types)], words, words, [f"{word}." for word in words]),
        *([letter + "." for letter in "abcxyzé"], ["3.", "1,000.", "5", "2.5", "-7."], list("\"'()[]{}!?:;,-*@#…”’«»")),
        *(["...", ". . .", "--", "?!", ".)", '."'], [" ".join(pair) for pair in sorted(known.collocations)]),
    )
    for _ in range(4000):
        parts = [dice.choice(dice.choice(pools)) for _ in range(dice.randrange(1, 9))]
        text = dice.choice((" ", " ", "", "  ", "\n")).join(parts).lower()
        assert split_sentences(text) == trained.tokenize(text), text
        assert tokenize(text) == nltk.word_tokenize(text), text
