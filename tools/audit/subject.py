"""What an audit is about, and what it finds: the same whether a trained run or stored embeddings are audited.

Legend: N pairs, I images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tools.audit.opinions import Opinion
from tools.audit.partners import Partners
from tools.audit.suspicion import most_suspicious_first, precisions, suspicion

Progressing = Callable[[str, int, str], Callable[[int], None]]
"""Title, total, unit -> what to tell of how many more are done."""


@dataclass(frozen=True)
class Subject:
    """The pairs.

    Attributes:
        name: what they are called.
        image_of_pair: (N,) the image each caption is trained with.
        image_of_caption: (N,) the image each caption was written for, as the data set's files say.
        texts: N captions, None if they are not known.
        text_group: (N,) number of the first caption with the same words.
        image_group: (I,) number of the first of the near-duplicate images.
        is_mismatched: (N,) bool, None if it is not known.
        unknown_words: (N,) how many words of each caption the vocabulary does not have, None if there is none.
        is_unread: (N,) bool, captions of which no word is known: nothing can be said of their pairs.
        has_real_noise: run.py takes no index for this data set.
    """

    name: str
    image_of_pair: np.ndarray
    image_of_caption: np.ndarray
    texts: list[str] | None
    text_group: np.ndarray
    image_group: np.ndarray
    is_mismatched: np.ndarray | None
    unknown_words: np.ndarray | None = None
    is_unread: np.ndarray | None = None
    has_real_noise: bool = False

    def __len__(self) -> int:
        return len(self.image_of_pair)


@dataclass(frozen=True)
class Audit:
    """What was found of every pair.

    Attributes:
        subject: the pairs.
        opinions: of each network by its name.
        similarity: (N,) score of each pair, the networks' mean.
        partners: how its own partner ranks, and what fits better.
        judged_by: who judges, in words.
        ranked_over: what ranks are over, in words.
    """

    subject: Subject
    opinions: dict[str, Opinion]
    similarity: np.ndarray
    partners: Partners
    judged_by: str
    ranked_over: str

    @property
    def probability(self) -> np.ndarray:
        """(N,) clean probability, the networks' mean."""
        return np.mean([opinion.probability for opinion in self.opinions.values()], axis=0)

    def suspicion(self) -> np.ndarray:
        """Return (N,) in [0, 1]."""
        signals = [opinion.signal for opinion in self.opinions.values()]
        return suspicion(signals, self.similarity, self.partners)


@dataclass(frozen=True)
class Ordered:
    """An audit in the order of suspicion.

    Attributes:
        audit: it.
        suspicion: (N,) by pair.
        order: (N,) pair numbers, the most suspicious first.
    """

    audit: Audit
    suspicion: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, audit: Audit) -> Ordered:
        """Order an audit."""
        values = audit.suspicion()
        return cls(audit, values, most_suspicious_first(values))

    def precisions(self) -> dict[int, float]:
        """Return precision at k, empty where it is not known which pairs are mismatched, or none is."""
        truth = self.audit.subject.is_mismatched
        return {} if truth is None or not truth.any() else precisions(self.order, truth)
