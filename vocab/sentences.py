"""Sentences of a lower-cased caption, as NLTK's English Punkt model splits them, without its data.

Punkt (Kiss and Strunk, Computational Linguistics 32(4), 2006) ends a sentence at `?`, at `!` and at a word's period,
unless the word is an abbreviation, an initial or a number. Its trained data are four tables: abbreviations, words that
often start a sentence, pairs of words that stand together, and the cases each word was seen in. In lower-cased text:
- words that start sentences count only where they are capitalised: never;
- after an initial or a number there is no end of a sentence unless the next word is one that was seen starting
  sentences in lower case and never with a capital: four words of the 20,366, and every one not beginning with a letter;
- the pairs join initials and numbers with words, which are together already.
So 155 abbreviations and the four words are all of the data that matters, and NLTK's algorithm does the rest.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer


ABBREVIATIONS = frozenset(
    """
    a.a a.c a.d a.g a.h a.m a.m.e a.s a.t adm ala ariz aug ave b.f b.v bros c c.i.t c.o.m.b c.v calif chg cie co col
    colo conn corp cos ct d d.c d.h d.w dec dr e e.f e.h e.l e.m f f.g f.j feb fla fri ft g g.d g.f g.k ga gen h h.c
    h.f h.m i.m.s ill inc j.b j.c j.j j.k j.p j.r jan jr k kan ky l l.a l.f l.p lt ltd m m.b.a m.d.c m.j maj messrs
    mg mich minn mr mrs ms n n.c n.d n.h n.j n.m n.v n.y nev nov oct ok okla ore p p.a.m p.m pa ph.d prof r r.a r.h
    r.i r.j r.k r.t rep reps s s.a s.a.y s.c s.g s.p.a s.s sen sep sept sr st sw t t.j tenn tues u.k u.n u.s u.s.a
    u.s.s.r v va vs vt w w.c w.r w.va w.w wash wed wis yr
    """.split()
)
"""What NLTK's English model calls abbreviations (Jan Strunk, MIT licence), each without its last period.

A 156th there, `. .` with spaces, is never met: what is looked up has at most two words.
"""

SEEN_IN_LOWER_CASE = ("administrators", "b-week", "r-revised", "z-holiday")
"""The words that were seen starting a sentence in lower case and never with a capital."""

STARTED_IN_LOWER_CASE = 1 << 4
"""Punkt's mark for that."""


@cache
def _splitter() -> PunktSentenceTokenizer:
    from nltk.tokenize.punkt import (  # here: it takes long to load
        PunktParameters,
        PunktSentenceTokenizer,
    )

    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    for word in SEEN_IN_LOWER_CASE:
        parameters.ortho_context[word] = STARTED_IN_LOWER_CASE
    return PunktSentenceTokenizer(parameters)


def split_sentences(text: str) -> list[str]:
    """Split lower-cased text into sentences, what stands between them left out; [] for white space."""
    return _splitter().tokenize(text)
