"""The table of an audit: a row a pair, the most suspicious first, as CSV and as Parquet.

Legend: N pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runtime.packages import require
from tools.audit.cleaned import Cleaned
from tools.audit.duplicates import group_sizes
from tools.audit.partners import NOBODY
from tools.audit.subject import Ordered

try:
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pa_parquet
except ImportError:  # an optional extra: the rest of the suite works without tables
    pa: Any = None  # type: ignore[no-redef]

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


def audit_table(ordered: Ordered, cleaned: Cleaned) -> Table:
    """Return the columns that README lists, in the order of suspicion; what is not known is null.

    Args:
        ordered: the audit.
        cleaned: what would be done with each pair.
    """
    audit, order = ordered.audit, ordered.order
    subject, partners = audit.subject, audit.partners
    columns: dict[str, pa.Array] = {
        "order": pa.array(np.arange(1, len(order) + 1)),
        "pair": pa.array(order),
        "image": pa.array(subject.image_of_pair[order]),
        "caption": _texts_of(subject.texts, order),
        "suspicion": pa.array(ordered.suspicion[order], pa.float32()),
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
