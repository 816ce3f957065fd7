"""Section: training pairs as pictures: those that the last division doubts most, and those that it trusts most.

Legend: N training pairs.
"""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from tools.pages.pictures import Thumbnails, card
from tools.pages.text import Piece, badge, grid, heading, note
from tools.report.division import missing_divisions
from tools.report.opened import OpenedRun


def mean_over_networks(opened: OpenedRun) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean clean probability (N,) and the mean rank of the signal (N,), low for clean pairs."""
    divisions = opened.run.last_divisions()
    ranks = [np.argsort(np.argsort(d.signal, kind="stable"), kind="stable") for d in divisions]
    return np.mean([d.probability for d in divisions], axis=0), np.mean(ranks, axis=0)


def extremes(
    probability: np.ndarray, signal_rank: np.ndarray, count: int, among: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the numbers of the `count` least and most probable pairs (`among` those of a mask); ties by the signal."""
    order = np.lexsort((-signal_rank, probability))
    if among is not None:
        order = order[among[order]]
    return {"doubted": order[:count], "trusted": order[::-1][:count]}


def _cards(
    opened: OpenedRun, pairs: np.ndarray, probability: np.ndarray, captions: list[str], thumbs: Thumbnails
) -> Markup:
    train, cards = opened.data.train, []
    for pair in pairs.tolist():
        image = int(train.image_of_pair[pair])
        truth = Markup("")
        if opened.data.truth_is_known:
            truth = badge("matched", "right") if train.is_matched[pair] else badge("mismatched", "wrong")
        text = Markup("<p>“{}”</p><p class='soft'>pair {:,}, picture {:,}, clean {:.3f} {}</p>")
        cards.append(
            card(
                thumbs.image(image, f"training picture {image}"),
                text.format(captions[pair], pair, image, float(probability[pair]), truth),
            )
        )
    return grid(cards, narrow=True)


def pairs_section(all_opened: list[OpenedRun], count: int) -> list[Piece]:
    """Return, for every run, doubted and trusted pairs and, where the truth is known, the worst mistakes."""
    pieces: list[Piece] = []
    for opened in all_opened:
        run, train = opened.run, opened.data.train
        if not run.divisions:
            pieces.append(note(missing_divisions(run)))
            continue
        thumbs = opened.thumbnails("train")
        if thumbs is None:
            pieces.append(note(f"{run.label}: {run.data_name} has no pictures, or none are wanted."))
            continue
        probability, ranks = mean_over_networks(opened)
        if len(probability) != len(train):
            pieces.append(
                note(f"{run.label}: its division has {len(probability):,} pairs, the data have {len(train):,}.")
            )
            continue
        captions = opened.captions("train")
        kinds: list[tuple[str, np.ndarray]] = []
        found = extremes(probability, ranks, count)
        kinds = [("Most suspicious", found["doubted"]), ("Most confidently kept", found["trusted"])]
        if opened.data.truth_is_known and not train.is_matched.all():
            wrong = extremes(probability, ranks, count, ~train.is_matched)["trusted"]
            lost = extremes(probability, ranks, count, train.is_matched)["doubted"]
            kinds += [("Mismatched, and trusted most", wrong), ("Matched, and doubted most", lost)]
        pieces.append(heading(run.label))
        for title, pairs in kinds:
            pieces += [heading(title, 4), _cards(opened, pairs, probability, captions, thumbs)]
    return pieces
