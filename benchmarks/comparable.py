"""Rows side by side: means over seeds, sections of one data set and noise ratio, what keeps rows from comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.result_rows import Row

LARGEST_RATIO_ERROR = 0.01 + 1e-9

MARKS = {
    "D": "other data",
    "S": "another split, or other folds",
    "N": "another noise protocol, or one of them is not stated",
    "E": "another number of networks averaged, or one of them is not stated",
    "F": "other features",
    "C": "not chosen on dev, or that is not recorded",
    "R": "the measured noise ratio is more than a point off the asked one",
    "A": "scored by a shortlist, an approximation",
}
"""Why a row must not be read against the reference, the first row of the section that is not published."""


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Join rows that differ in nothing but the seed into one of means; a row that is given twice counts once.

    Different numbers for one seed cannot be of one setting, whatever else the files tell: such rows stay apart.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        group = groups.setdefault(row.same_but_seed(), [])
        if not any((row.seeds, row.recalls) == (other.seeds, other.recalls) for other in group):
            group.append(row)
    joined: list[Row] = []
    for group in groups.values():
        is_one_setting = len({row.seeds for row in group}) == len(group) > 1
        joined += [_mean(group)] if is_one_setting else group
    return joined


def _mean(rows: Sequence[Row]) -> Row:
    numbers = np.array([[*row.recalls, row.r_sum] for row in rows], dtype=float)
    measured = [row.measured_ratio for row in rows if row.measured_ratio is not None]
    mean = numbers.mean(axis=0).tolist()
    return replace(
        rows[0],
        source=", ".join(row.source for row in rows),
        recalls=tuple(mean[:-1]),
        r_sum=mean[-1],
        spread=tuple(numbers.std(axis=0, ddof=1).tolist()),
        seeds=tuple(seed for row in rows for seed in row.seeds),
        epochs=tuple(epoch for row in rows for epoch in row.epochs),
        notes=tuple(note for row in rows for note in row.notes),
        measured_ratio=float(np.mean(measured)) if measured else None,
    )


def _reasons(row: Row, reference: Row) -> Iterator[str]:
    if row.data_name != reference.data_name:
        yield "D"
    if row.split != reference.split:
        yield "S"
    if row.noise_protocol != reference.noise_protocol or row.noise_protocol in (None, "not recorded"):
        yield "N"
    if row.num_networks != reference.num_networks or row.num_networks is None:
        yield "E"
    if row.features != reference.features:
        yield "F"
    if not row.is_published and row.chosen_on != "dev":
        yield "C"
    if None not in (row.noise_ratio, row.measured_ratio):
        if abs(row.measured_ratio - row.noise_ratio) > LARGEST_RATIO_ERROR:  # type: ignore[operator]
            yield "R"
    if row.is_approximate:
        yield "A"


def marks(row: Row, reference: Row | None) -> str:
    """Return the letters of `MARKS` that keep a row from being read against the reference."""
    return " ".join(_reasons(row, row if reference is None else reference))


@dataclass(frozen=True)
class Section:
    """Rows of one data set and noise ratio, the reference first."""

    title: str
    rows: list[Row]
    reference: Row | None


def sections(own: Sequence[Row], published: Sequence[Row], beside: str) -> list[Section]:
    """Put own rows of one data set and asked ratio together, with published rows of that ratio.

    Args:
        own: rows of results files.
        published: published rows.
        beside: `all` puts every published row of that ratio beside, `auto` those of the same data set or, where there
            are none, all; `none` none.
    """
    found: dict[tuple[str, float | None], list[Row]] = {}
    for row in own:
        found.setdefault((row.data_name, row.noise_ratio), []).append(row)
    made = []
    for (data_name, ratio), rows in found.items():
        at_ratio = [row for row in published if row.noise_ratio == ratio]
        same = [row for row in at_ratio if row.data_name == data_name]
        chosen = {"all": at_ratio, "auto": same or at_ratio, "none": []}[beside]
        noise = "noise as collected" if ratio is None else f"{100 * ratio:g} % noise asked"
        made.append(Section(f"{data_name}, {noise}", [*rows, *chosen], rows[0]))
    return made
