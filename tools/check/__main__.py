"""Check a data set: what is there, what is missing, what does not fit together, and what to do about it.

    python -m tools.check --data_path /data --data_name f30k_precomp --vocab_path /vocab

Ends with 0 if the data set can be used, with 1 if it cannot, with 2 if the command line is wrong or there is no such
folder. Features of more than 2 GiB are sampled; --all_rows reads every row.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_utils.catalog import NEEDED, TESTALL, DataConfig, Protocol, locate, protocol, vocabulary_file
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import flag
from runtime.log import Progress, table
from tools.check.inventory import (
    Findings,
    Inventory,
    RowScan,
    Shared,
    rows_to_read,
    scan_rows,
    shared_between,
    take_inventory,
    unknown_share,
    word_lengths,
)
from tools.check.usability import (
    judge_captions,
    judge_counts,
    judge_rows,
    judge_shared,
    judge_vocabulary,
    pairs_to_compare,
)
from tools.command import parsed
from vocab.vocabulary import Vocabulary


@dataclass(frozen=True)
class CheckConfig:
    """How thoroughly to look."""

    all_rows: bool = flag(False, "read every feature row; without it, files of more than 2 GiB are sampled")


@dataclass(frozen=True)
class Report:
    """Everything that was found.

    Attributes:
        folder: the data set's folder.
        splits: the splits by name; one that may be missing and is, is not in it.
        scans: what was read of their features.
        shared: what they share.
        vocabulary: None if it cannot be read.
        findings: faults and remarks.
    """

    folder: Path
    splits: dict[str, Inventory]
    scans: dict[str, RowScan]
    shared: list[Shared]
    vocabulary: Vocabulary | None
    findings: Findings


def expected_splits(folder: Path, rules: Protocol, findings: Findings) -> list[str]:
    """Return the splits to look at: those that a run needs, and a `testall` that is there."""
    has_testall = any(folder.glob(f"{TESTALL}_*"))
    if TESTALL in rules.splits and not has_testall:
        findings.remarks.append(f"there is no {TESTALL}; run.py does not need it, evaluation.py --split {TESTALL} does")
    return [*NEEDED, *([TESTALL] if has_testall else [])]


def check(data: DataConfig, *, all_rows: bool = False) -> Report:
    """Look at a data set.

    Raises:
        InputError: there is no such folder.
    """
    folder, rules, findings = locate(data), protocol(data.data_name), Findings()
    vocabulary: Vocabulary | None = None
    try:
        vocabulary = Vocabulary.load(vocabulary_file(data))
    except InputError as error:
        findings.faults.append(str(error))
    splits = {
        name: take_inventory(folder, name, findings, vocabulary) for name in expected_splits(folder, rules, findings)
    }
    judge_counts(splits, rules, data.data_name, findings)
    judge_captions(splits["train"], findings)
    if vocabulary is not None:
        judge_vocabulary(splits, vocabulary, findings)
    scans = _scan(splits, findings, all_rows=all_rows)
    shared = []
    for one, other in pairs_to_compare(splits):
        found = shared_between(
            (one, other), (scans.get(one), scans.get(other)), (splits[one].captions, splits[other].captions)
        )
        is_sampled = any(not scans[name].is_whole for name in (one, other) if name in scans)
        judge_shared(found, findings, is_sampled=is_sampled)
        shared.append(found)
    unfinished = sorted(path.name for path in folder.glob("*.part"))
    if unfinished:
        findings.remarks.append(f"unfinished files, which nothing reads: {', '.join(unfinished)}")
    return Report(folder, splits, scans, shared, vocabulary, findings)


def _scan(splits: dict[str, Inventory], findings: Findings, *, all_rows: bool) -> dict[str, RowScan]:
    """Read the features of all splits; a damaged file is a fault."""
    plans = {n: (s.features, rows_to_read(s.features, all_rows)) for n, s in splits.items() if s.features is not None}
    progress = Progress("rows", sum(len(rows) for _, rows in plans.values()), unit="rows")
    scans = {}
    for name, (features, rows) in plans.items():
        try:
            counts = splits[name].counts
            image_of_row = np.zeros(len(features), dtype=np.int64) if counts is None else counts.image_of_row
            scans[name] = scan_rows(features, rows, progress.advance, image_of_row)
            judge_rows(name, splits[name], scans[name], findings)
        except InputError as error:
            findings.faults.append(str(error))
    progress.close()
    return scans


def _size(path: Path) -> str:
    size = path.stat().st_size
    scale, unit = next((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= s or u == "kB")
    return f"{size / scale:.2f} {unit}"


def file_table(report: Report) -> str:
    """Return the table of expected and found files."""
    rows = []
    for name, split in report.splits.items():
        features, captions = split.features, split.captions_path
        if features is None:
            there = any((report.folder / f"{name}_ims{suffix}").is_file() for suffix in (".npy", ".h5"))
            rows.append([f"{name}_ims", "unreadable" if there else "missing", "-", "-", "-"])
        else:
            shape = " x ".join(map(str, features.shape))
            rows.append([f"{name}_ims", features.path.name, _size(features.path), shape, str(features.dtype)])
        if captions is None or split.captions is None:
            rows.append([f"{name}_caps", "missing" if captions is None else "unreadable", "-", "-", "-"])
        else:
            rows.append([f"{name}_caps", captions.name, _size(captions), f"{len(split.captions)} lines", "-"])
    return table(["expected", "found", "size", "shape", "type"], rows)


def split_table(report: Report, rules: Protocol) -> str:
    """Return the table of counts and caption statistics."""
    header = ["split", "images", "published", "captions", "an image", "a row is", "words min", "median", "mean", "max"]
    header += ["distinct %", "unknown %"]
    rows: list[Iterable[object]] = []
    for name, split in report.splits.items():
        counts, lengths, captions = split.counts, word_lengths(split), split.captions
        unknown = unknown_share(split, report.vocabulary)
        per_row = "-" if counts is None else "a caption" if counts.is_row_a_caption else "an image"
        words: list[object] = ["-"] * 4
        if lengths is not None:
            words = [int(lengths.min()), f"{np.median(lengths):g}", float(lengths.mean()), int(lengths.max())]
        rows.append(
            [
                name,
                "-" if counts is None else counts.images,
                rules.images.get(name, "-"),
                "-" if captions is None else len(captions),
                "-" if counts is None else counts.each,
                per_row,
                *words,
                "-" if captions is None else 100 * len(set(captions)) / len(captions),
                "-" if unknown is None else f"{100 * unknown:.2f}",
            ]
        )
    return table(header, rows)


def shared_table(report: Report) -> str:
    """Return the table of what the splits share."""
    rows = [
        [
            f"{s.second} in {s.first}",
            "-" if s.captions is None else s.captions,
            100 * s.caption_share,
            "-" if s.rows is None else s.rows,
            100 * s.row_share,
        ]
        for s in report.shared
    ]
    return table(["the same", "caption lines", "%", "feature rows", "%"], rows)


def show(report: Report, data: DataConfig) -> None:
    """Print the tables, the remarks and the faults."""
    print(f"{data.data_name}: {report.folder.resolve()}\n")
    print(file_table(report) + "\n")
    print(split_table(report, protocol(data.data_name)) + "\n")
    if report.shared:
        print(shared_table(report) + "\n")
    for name, scan in report.scans.items():
        if not scan.is_whole:
            print(f"{name}: {scan.num_read} of {scan.num_rows} feature rows were read; --all_rows reads all")
    place = vocabulary_file(data)
    if report.vocabulary is not None:
        print(f"vocabulary: {place}, {len(report.vocabulary)} words")
    for remark in report.findings.remarks:
        print(f"note: {remark}")
    for number, fault in enumerate(report.findings.faults, start=1):
        print(f"fault {number}: {' '.join(fault.split())}")
    faults = len(report.findings.faults)
    print("usable" if not faults else f"not usable: {faults} fault{'s' if faults > 1 else ''}")


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Check a data set; exit with 1 if it cannot be used."""
    kinds = {"data": DataConfig, "check": CheckConfig}
    data, config = parsed("tools.check", "Check that a data set can be used.", argv, kinds)
    report = check(data, all_rows=config.all_rows)
    show(report, data)
    if report.findings.faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
