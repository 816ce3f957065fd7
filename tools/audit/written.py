"""What an audit leaves for programs: tables, a cleaned noise index, files for cleanlab.

The cleaned index gives every caption an image to train it with, suspects the image that fits them better: a
`--noise_file` names an image for every caption, so that a pair cannot be dropped by it. A suspect is a pair whose clean
probability, the mean of the networks', is not above the threshold; it gets the best rival of its image, if that one
scores higher. All other captions keep the image they were trained with, and so do those of which no word is known. On
the embedded set with VSE and 40 % noise 64 % of the moved captions come to a picture of their concept (13 % to the very
picture they were written for), and 40 % of pairs with a wrong concept become 17 %.

cleanlab: `cleanlab_labels.npy` (N,) int64 and `cleanlab_pred_probs.npy` (N, 2) float64, row k is pair k. Class 1 is
"these belong together", which every pair's label claims; column 1 of the probabilities is the clean probability. Use
`cleanlab.rank.get_label_quality_scores(labels, pred_probs)` (`filter.find_label_issues` wants two classes of labels).

Legend: N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.noise import measure, save_index
from runtime.packages import require
from tools.audit.partners import NOBODY
from tools.audit.subject import Audit, group_sizes

try:
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pa_parquet
except ImportError:  # an optional extra: the rest of the suite works without tables
    pa: Any = None  # type: ignore[no-redef]


@dataclass(frozen=True)
class Cleaned:
    """An index and what it changes.

    Attributes:
        index: (N,) image numbers.
        is_suspect: (N,) bool.
        is_moved: (N,) bool, those suspects that have another image now.
    """

    index: np.ndarray
    is_suspect: np.ndarray
    is_moved: np.ndarray


def cleaned_index(
    image_of_pair: np.ndarray,
    probability: np.ndarray,
    better_image: np.ndarray,
    threshold: float,
    is_unread: np.ndarray | None = None,
) -> Cleaned:
    """Give suspects their better image.

    Args:
        image_of_pair: (N,) the image each caption was trained with.
        probability: (N,) clean probability.
        better_image: (N,) or NOBODY.
        threshold: suspects are those not above it.
        is_unread: (N,) bool, captions that no network can read.
    """
    is_suspect = ~(probability > threshold)
    is_moved = is_suspect & (better_image != NOBODY)
    if is_unread is not None:
        is_moved &= ~is_unread
    return Cleaned(np.where(is_moved, better_image, image_of_pair).astype(np.int64), is_suspect, is_moved)


def write_cleaned(path: Path, cleaned: Cleaned, image_of_caption: np.ndarray) -> None:
    """Write the index, and its JSON beside it, as `--noise_file` reads them.

    Args:
        path: where to.
        cleaned: the index.
        image_of_caption: (N,) the image each caption was written for.

    The ratio it names is the measured one: captions whose image is not the one that the data set's files give them.
    """
    report = measure(cleaned.index, image_of_caption, 0.0)
    save_index(path, cleaned.index, replace(report, asked_ratio=report.measured_ratio), seed=0)


Table = Any
"""pyarrow's, where it is installed."""

CSV, PARQUET = "audit.csv", "audit.parquet"


def check_tables() -> None:
    """Raise `InputError` unless tables can be written."""
    require(pa, "pyarrow", "tools.audit needs")


def _texts_of(texts: list[str] | None, numbers: np.ndarray) -> pa.Array:
    """Return the captions of these numbers; null where there is none."""
    if texts is None:
        return pa.nulls(len(numbers), pa.string())
    return pa.array([None if k == NOBODY else texts[k] for k in numbers.tolist()], pa.string())


def _number(values: np.ndarray) -> pa.Array:
    """Return numbers, null where there is nobody."""
    return pa.array(values, pa.int64(), mask=values == NOBODY)


def _score(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float32(), mask=np.isnan(values))


def audit_table(audit: Audit, cleaned: Cleaned) -> Table:
    """Return the columns that README lists, in the order of suspicion; what is not known is null.

    Args:
        audit: of what.
        cleaned: what would be done with each pair.
    """
    order, subject, partners = audit.order, audit.subject, audit.partners
    columns: dict[str, pa.Array] = {
        "order": pa.array(np.arange(1, len(order) + 1)),
        "pair": pa.array(order),
        "image": pa.array(subject.image_of_pair[order]),
        "caption": _texts_of(subject.texts, order),
        "suspicion": pa.array(audit.suspicion[order], pa.float32()),
        "clean_probability": pa.array(audit.probability[order]),
        "similarity": pa.array(audit.similarity[order], pa.float32()),
    }
    for name, opinion in audit.opinions.items():
        columns[f"signal_{name}"] = pa.array(opinion.signal[order])
        columns[f"clean_probability_{name}"] = pa.array(opinion.probability[order])
        columns[f"soft_label_{name}"] = pa.array(opinion.soft_label[order], pa.float32())
    columns |= {
        "rank_i2t": pa.array(partners.i2t.rank[order]),
        "rank_t2i": pa.array(partners.t2i.rank[order]),
        "better_caption": _number(partners.i2t.better[order]),
        "better_caption_text": _texts_of(subject.texts, partners.i2t.better[order]),
        "better_caption_score": _score(partners.i2t.better_score[order]),
        "better_image": _number(partners.t2i.better[order]),
        "better_image_score": _score(partners.t2i.better_score[order]),
        "caption_group": pa.array(subject.text_group[order]),
        "caption_group_size": pa.array(group_sizes(subject.text_group)[order]),
        "image_group": pa.array(subject.image_group[subject.image_of_pair[order]]),
        "image_group_size": pa.array(group_sizes(subject.image_group)[subject.image_of_pair[order]]),
        "is_suspect": pa.array(cleaned.is_suspect[order]),
        "cleaned_image": pa.array(cleaned.index[order]),
    }
    if subject.unknown_words is not None:
        columns["unknown_words"] = pa.array(subject.unknown_words[order])
    if subject.is_unread is not None:
        columns["is_unread"] = pa.array(subject.is_unread[order])
    if subject.is_mismatched is not None:
        columns["is_mismatched"] = pa.array(subject.is_mismatched[order])
    return pa.table(columns)


def write_tables(folder: Path, table: Table) -> None:
    """Write both files."""
    pa_csv.write_csv(table, folder / CSV)
    pa_parquet.write_table(table, folder / PARQUET)


LABELS, PRED_PROBS = "cleanlab_labels.npy", "cleanlab_pred_probs.npy"


def write_cleanlab(folder: Path, probability: np.ndarray) -> None:
    """Write labels and probabilities.

    Args:
        folder: where to.
        probability: (N,) clean probability.
    """
    probability = np.clip(probability, 0.0, 1.0)
    np.save(folder / LABELS, np.ones(len(probability), dtype=np.int64))
    np.save(folder / PRED_PROBS, np.stack([1 - probability, probability], axis=1))
