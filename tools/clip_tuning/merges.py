"""Byte-pair merges learnt from words (Sennrich et al., ACL 2016), the same on every machine.

The tokenizers library's own trainer breaks ties by the order of a hash table, so that two runs get two vocabularies;
here ties go to the pair that comes first in the alphabet.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping

END = "</w>"
"""Marks a word's last symbol."""

Pair = tuple[str, str]


def spell(word: str) -> list[str]:
    """Return a word's symbols: its characters, the last one with the end mark."""
    return [*word[:-1], word[-1] + END]


def _merged(symbols: list[str], pair: Pair) -> list[str]:
    """Join the pair wherever it stands in the symbols, from left to right."""
    out: list[str] = []
    place = 0
    while place < len(symbols):
        if tuple(symbols[place : place + 2]) == pair:
            out.append(symbols[place] + symbols[place + 1])
            place += 2
        else:
            out.append(symbols[place])
            place += 1
    return out


def learn_merges(words: Mapping[str, int], most: int, *, least_count: int = 2) -> list[Pair]:
    """Return the merges, most frequent first: each joins the pair of neighbours that is seen most often by then.

    Args:
        words: how often each word occurs.
        most: so many merges at most.
        least_count: pairs seen less often are not merged.

    Example:
        `{"low": 5, "lot": 2}`: (l, o) is seen 7 times and joined; then (lo, w</w>) 5 times, then (lo, t</w>) twice.
    """
    spelt = {word: spell(word) for word in words}
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[str]] = defaultdict(set)
    for word, symbols in spelt.items():
        for pair in zip(symbols, symbols[1:], strict=False):
            counts[pair] += words[word]
            where[pair].add(word)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < most:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair]:  # an entry from before other merges; its present one is in the heap too
            continue
        if -count < least_count:
            break
        merges.append(pair)
        touched: set[Pair] = set()
        for word in where.pop(pair):
            for sign in (-1, 1):
                for neighbours in zip(spelt[word], spelt[word][1:], strict=False):
                    counts[neighbours] += sign * words[word]
                    where[neighbours].add(word)
                    touched.add(neighbours)
                if sign == -1:
                    spelt[word] = _merged(spelt[word], pair)
        for changed in touched:
            if counts[changed] > 0:
                heapq.heappush(heap, (-counts[changed], changed))
    return merges
