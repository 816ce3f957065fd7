"""Whether a data set can be used: rules on the inventories of its splits. A fault says what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from data_utils.captions import unsegmented
from data_utils.catalog import NEEDED, TESTALL, Protocol
from data_utils.precomputed import MANY_UNKNOWN
from tools.check.inventory import Findings, Inventory, RowScan, Shared, unknown_share
from vocab.vocabulary import Vocabulary

MAX_SHARED_ROWS = 0.01
"""If more of a split's images than this are in another split too, or equal another one, its recalls mean nothing."""

MAX_EQUAL_ROWS = 0.5
"""If more of the training images than this equal another one, little can be learnt from them."""

FOREIGN = 0.15
"""A vocabulary that knows fewer of a split's words by this is another data set's, though run.py would take it."""

SHOWN = 5
"""So many row numbers are named."""


def judge_counts(splits: Mapping[str, Inventory], rules: Protocol, data_name: str, findings: Findings) -> None:
    """Look for splits that are mixed up, swapped, or of different shapes."""
    _judge_mixture(splits, rules, data_name, findings)
    images = {name: split.counts.images for name, split in splits.items() if split.counts is not None}
    for name, number in images.items():
        if name != "train" and images.get("train", number) < number:
            findings.faults.append(
                f"train is smaller than {name} ({images['train']} images, {number}): the files of the two are probably "
                "swapped; rename them, or take a larger training split"
            )
    shapes = {name: split.features.shape[1:] for name, split in splits.items() if split.features is not None}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name} {shape[0]} x {shape[1]}" for name, shape in shapes.items())
        findings.faults.append(
            f"regions x dimensions differ ({told}); all splits must agree: extract them with one network"
        )
    others = [
        f"{name} {images[name]} ({rules.images[name]})"
        for name in images
        if rules.images.get(name, images[name]) != images[name]
    ]
    if others:
        findings.remarks.append(
            f"numbers of images differ from the published {data_name}, in brackets: {', '.join(others)}; results do "
            "not compare with published ones"
        )
    if rules.dev_images is not None and images.get("dev", 0) > rules.dev_images:
        findings.remarks.append(f"of dev the first {rules.dev_images} images are used, as published")
    fold = rules.folds(TESTALL)
    if fold is not None and images.get(TESTALL, 0) > fold and images[TESTALL] % fold:
        findings.remarks.append(f"{TESTALL} is no whole number of folds of {fold} images; the last one is smaller")


def usual_captions(splits: Mapping[str, Inventory], rules: Protocol) -> int | None:
    """Return how many captions an image has: as published, or in most splits where every image has as many."""
    if rules.captions_per_image is not None:
        return rules.captions_per_image
    even = [split.counts.captions_per_image for split in splits.values() if split.counts is not None]
    found = Counter(number for number in even if number is not None)
    return found.most_common(1)[0][0] if found else None


def _judge_mixture(splits: Mapping[str, Inventory], rules: Protocol, data_name: str, findings: Findings) -> None:
    """Look for features and captions of different splits, and for another number of captions an image."""
    usual = usual_captions(splits, rules)
    for name, split in splits.items():
        if split.features is None or split.captions is None or usual is None:
            continue
        is_counted = split.counts is not None
        if split.counts is not None and split.counts.captions_per_image == usual:
            continue
        is_uneven = split.counts is not None and split.counts.captions_per_image is None  # as the image ids say
        hints = [
            f"{other.name} has the {what} that would fit"
            for other in splits.values()
            if other.name != name and not is_uneven
            for what, fits in (
                ("captions", other.captions is not None and len(other.captions) == usual * len(split.features)),
                ("features", other.features is not None and len(split.captions) == usual * len(other.features)),
            )
            if fits
        ]
        told = f"{name} has {len(split.captions)} captions for {len(split.features)} feature rows, not {usual} an image"
        if hints:
            findings.faults.append(
                f"{told}; {' and '.join(hints)}: files of different splits are mixed; copy them again"
            )
        elif rules.captions_per_image is not None and is_counted:
            findings.faults.append(f"{told} as the published {data_name}; copy its features and captions again")
        elif is_counted:
            findings.remarks.append(f"{told} as the other splits")


def judge_rows(name: str, split: Inventory, scan: RowScan, findings: Findings) -> None:
    """Look for rows that are no features."""
    assert split.features is not None
    looked = "" if scan.is_whole else f" (of {scan.num_read} sampled rows; --all_rows looks at all)"
    if scan.not_finite:
        findings.faults.append(
            f"{split.features.path}: {len(scan.not_finite)} rows hold NaN or infinity{looked}, the first are "
            f"{_first(scan.not_finite)}; extract those images again"
        )
    if len(scan.zero) == scan.num_read:
        findings.faults.append(f"{split.features.path} holds nothing but zeros{looked}; extract {name} again")
    elif scan.zero:
        findings.remarks.append(
            f"{split.features.path.name}: {len(scan.zero)} rows are all zero{looked}, the first are {_first(scan.zero)}"
        )
    if scan.equal:
        (later, first), of = scan.equal[0], "" if scan.is_whole else "about "
        told = (
            f"{split.features.path.name}: {len(scan.equal)} rows{looked} equal a row of another image, {of}"
            f"{100 * scan.equal_share:.1f} % of all (first: rows {first} and {later})"
        )
        if scan.equal_share > (MAX_EQUAL_ROWS if name == "train" else MAX_SHARED_ROWS):
            findings.faults.append(f"{told}; extract {name} again, or leave such images out")
        else:
            findings.remarks.append(told)


def _first(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")


def judge_shared(shared: Shared, findings: Findings, *, is_sampled: bool) -> None:
    """Look for images and captions of one split in another; `test` is a part of `testall`."""
    both = f"{shared.first} and {shared.second}"
    if {shared.first, shared.second} == {"test", TESTALL}:
        if shared.rows is not None and shared.row_share < 1:
            findings.remarks.append(f"test is not a part of {TESTALL}, as it is where published")
        return
    if shared.are_captions_equal:
        findings.faults.append(f"the captions of {both} are the same, line by line; copy the right file")
    elif shared.captions:
        share = f"{100 * shared.caption_share:.1f} %"
        findings.remarks.append(
            f"{shared.captions} caption lines of {shared.second} ({share}) are in {shared.first} too"
        )
    if shared.rows and shared.row_pair is not None:
        of = "about " if is_sampled else ""
        told = (
            f"{both} share {shared.rows} feature rows{' among those sampled' if is_sampled else ''}, {of}"
            f"{100 * shared.row_share:.1f} % of {shared.second} (first: row {shared.row_pair[0]} of {shared.first} is "
            f"row {shared.row_pair[1]} of {shared.second})"
        )
        if shared.row_share > MAX_SHARED_ROWS:
            findings.faults.append(f"{told}; take these images out of {shared.first}, or copy the right file")
        else:
            findings.remarks.append(told)


def judge_captions(train: Inventory, findings: Findings) -> None:
    """Look for training captions that are one word each."""
    if train.captions and (why := unsegmented(train.captions)):
        findings.faults.append(f"{train.captions_path}: {why}")


def judge_vocabulary(splits: Mapping[str, Inventory], vocabulary: Vocabulary, findings: Findings) -> None:
    """Look for a vocabulary of another data set."""
    for name, split in splits.items():
        share = unknown_share(split, vocabulary)
        if share is not None and share > FOREIGN:
            why = unsegmented(split.captions or ()) or (
                "it belongs to another data set; set --vocab_path, or make one with python -m vocab.build"
            )
            findings.faults.append(f"the vocabulary does not know {100 * share:.0f} % of the words of {name}: {why}")
        elif share is not None and share > MANY_UNKNOWN:
            findings.remarks.append(f"the vocabulary does not know {100 * share:.0f} % of the words of {name}")


def pairs_to_compare(splits: Mapping[str, Inventory]) -> list[tuple[str, str]]:
    """Return the pairs of splits, `train` in front, then `testall`, then as they come."""
    order = [*NEEDED[:1], TESTALL, *NEEDED[1:]]
    names = sorted((n for n, s in splits.items() if not s.is_missing), key=order.index)
    return [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
