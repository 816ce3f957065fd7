"""The audit of stored embeddings of any origin: DSDMR's filter in place of networks and a method.

The signal is minus the cosine of a pair, the clean probability is the filter's, and so is the soft label.
Legend: N pairs, I images, D dimensions.
"""

from __future__ import annotations

import hashlib

import numpy as np

from tools.audit.opinions import Opinion
from tools.audit.partners import CAPTIONS_AT_ONCE, Rivalry, find_partners, product_tiles
from tools.audit.subject import Audit, Progressing, Subject, near_groups, text_groups
from tools.filter.filtering import EmbeddingPairs, FilterConfig, Rows, filter_pairs

FILTER = "filter"


class UnitRows:
    """Rows of embeddings, each scaled to length 1 when it is read."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.shape = rows, rows.shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        block = np.asarray(self._rows[rows], dtype=np.float64)
        return (block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float32)


def equal_rows(rows: Rows) -> np.ndarray:
    """Return for each row the number of the first one equal to it."""
    first: dict[bytes, int] = {}
    groups = np.empty(rows.shape[0], dtype=np.int64)
    for start in range(0, len(groups), CAPTIONS_AT_ONCE):
        for k, row in enumerate(rows[start : start + CAPTIONS_AT_ONCE], start=start):
            groups[k] = first.setdefault(hashlib.sha256(row.tobytes()).digest(), k)
    return groups


def audit_embeddings(
    pairs: EmbeddingPairs,
    filtering: FilterConfig,
    *,
    name: str,
    texts: list[str] | None,
    is_mismatched: np.ndarray | None,
    duplicate_cosine: float,
    progressing: Progressing,
) -> Audit:
    """Audit every pair of two embedding files.

    Args:
        pairs: the files.
        filtering: the filter's flags.
        name: what the pairs are called.
        texts: N captions, if they are known; else captions of equal embeddings count as equal.
        is_mismatched: (N,) the truth, if it is known.
        duplicate_cosine: images nearer than this are near-duplicates.
        progressing: shows how far it is.

    Raises:
        InputError: rows without a direction, NaN, or fewer than 10 pairs.
    """
    similarity = pairs.similarity()
    found = filter_pairs(similarity, filtering, filtering.p_threshold, filtering.seed)
    images, captions = UnitRows(pairs.images), UnitRows(pairs.captions)
    subject = Subject(
        name=name,
        image_of_pair=pairs.image_of_caption,
        image_of_caption=pairs.image_of_caption,
        texts=texts,
        text_group=equal_rows(pairs.captions) if texts is None else text_groups(texts),
        image_group=near_groups(images, duplicate_cosine),
        is_mismatched=is_mismatched,
    )
    rivalry = Rivalry(subject.image_of_pair, similarity, subject.text_group, subject.image_group)
    tiles = product_tiles(images, captions, progressing("ranks", images.shape[0], "images"))
    return Audit(
        subject=subject,
        opinions={FILTER: Opinion(-similarity, found.probability, found.probability)},
        similarity=similarity,
        partners=find_partners(tiles, rivalry),
        judged_by="DSDMR's filter" + (f"; warning: {found.modes.note}" if found.modes.note else ""),
        ranked_over="every pair",
    )
