"""The page of an audit: how many suspects, how right, and the most suspicious pairs with what fits them better."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from tools.audit.partners import NOBODY
from tools.audit.subject import Audit, group_sizes
from tools.audit.written import Cleaned
from tools.pages.page import Cell, Page, badge, note, table
from tools.pages.pictures import Thumbnails

PAGE = "audit.html"


def audit_page(audit: Audit, cleaned: Cleaned, thumbnails: Thumbnails | None, *, num_pairs: int) -> Page:
    """Return the page.

    Args:
        audit: of what.
        cleaned: its suspects.
        thumbnails: the images' pictures, if there are any.
        num_pairs: so many of the most suspicious pairs are shown.
    """
    unread = audit.subject.is_unread
    is_unread = np.zeros(len(audit.order), dtype=bool) if unread is None else unread[audit.order]
    shown = audit.order[~is_unread][:num_pairs]
    page = Page(
        f"Audit of {audit.subject.name}",
        lead=f"{len(audit.subject):,} training pairs, judged by {audit.judged_by}. Ranks are over {audit.ranked_over}.",
    )
    pieces: list[Markup] = [table(("", "pairs", "%"), _counts(audit, cleaned), caption="What was found", digits=2)]
    precision = audit.precisions()
    if precision:
        assert audit.subject.is_mismatched is not None
        rows: list[list[Cell]] = [[f"first {k:,}", 100 * share] for k, share in precision.items()]
        share = 100 * float(audit.subject.is_mismatched.mean())
        pieces.append(
            table(("most suspicious", "mismatched %"), rows, caption=f"Precision; {share:.1f} % of all pairs are")
        )
    elif audit.subject.is_mismatched is None:
        pieces.append(note("Which pairs are mismatched is not known, so that nothing is said of how right this is."))
    else:
        pieces.append(
            note("No pair was mismatched on purpose: what stands here are the data set's own doubtful pairs.")
        )
    page.section("Summary", *pieces)
    if thumbnails is None:
        page.section("Pictures", note("This data set has no pictures; images are shown by their numbers."))
    page.section(
        f"The {len(shown):,} most suspicious pairs",
        "The better caption and the better image are those that score highest among all that score higher than the "
        "pair itself; captions of the same words and near-duplicates of the image do not count. Captions without a "
        "known word are left out: nothing can be said of them.",
        _suspects(audit, thumbnails, shown),
    )
    return page


def _counts(audit: Audit, cleaned: Cleaned) -> list[list[Cell]]:
    subject, count = audit.subject, len(audit.subject)
    texts, images = group_sizes(subject.text_group) > 1, group_sizes(subject.image_group) > 1
    found: dict[str, np.ndarray] = {
        "suspects: clean probability not above the threshold": cleaned.is_suspect,
        "suspects with an image that fits better": cleaned.is_moved,
        "own partner is first both ways": (audit.partners.i2t.rank == 1) & (audit.partners.t2i.rank == 1),
        "the caption's words occur elsewhere too": texts,
        "the image has near-duplicates": images[subject.image_of_pair],
    }
    if len(audit.opinions) > 1:
        sides = [opinion.probability > 0.5 for opinion in audit.opinions.values()]
        found["networks disagree: one above 0.5, one not"] = sides[0] != sides[1]
    if subject.is_mismatched is not None and subject.is_mismatched.any():
        found["known to be mismatched"] = subject.is_mismatched
    return [[name, int(which.sum()), 100 * float(which.sum()) / count] for name, which in found.items()]


def _picture(thumbnails: Thumbnails | None, number: int) -> Markup:
    name = Markup("image&nbsp;{}").format(number)
    if thumbnails is None:
        return name
    return Markup("{}<br><small>{}</small>").format(thumbnails.image(number, f"image {number}"), name)


def _caption(audit: Audit, number: int) -> str:
    return f"caption {number}" if audit.subject.texts is None else audit.subject.texts[number]


def _lines(*lines: str) -> Markup:
    """Put short texts one below the other; none of them is broken."""
    return Markup("<br>").join(Markup('<span style="white-space: nowrap">{}</span>').format(line) for line in lines)


def _suspects(audit: Audit, thumbnails: Thumbnails | None, pairs: np.ndarray) -> Markup:
    i2t, t2i = audit.partners.i2t, audit.partners.t2i
    columns: list[Cell] = ["", "image", "its caption", "judgement", "score and ranks", "better caption", "better image"]
    rows: list[list[Cell]] = []
    place_of = np.empty(len(audit.order), dtype=np.int64)
    place_of[audit.order] = np.arange(1, len(audit.order) + 1)
    for pair in pairs.tolist():
        opinions = audit.opinions.items()
        rows.append(
            [
                int(place_of[pair]),
                _picture(thumbnails, int(audit.subject.image_of_pair[pair])),
                _own_caption(audit, pair),
                _lines(
                    f"suspicion {audit.suspicion[pair]:.4f}",
                    *(f"{name}: clean {o.probability[pair]:.3f}" for name, o in opinions),
                    *(f"{name}: label {o.soft_label[pair]:.2f}" for name, o in opinions),
                ),
                _lines(
                    f"score {audit.similarity[pair]:.3f}",
                    f"caption rank {i2t.rank[pair]:,}",
                    f"image rank {t2i.rank[pair]:,}",
                ),
                _better_caption(audit, int(i2t.better[pair]), float(i2t.better_score[pair])),
                _better_image(thumbnails, int(t2i.better[pair]), float(t2i.better_score[pair])),
            ]
        )
    return table(columns, rows, caption="Pairs by suspicion")


def _own_caption(audit: Audit, pair: int) -> Markup:
    """Return a pair's caption, its number, and what speaks for or against it beforehand."""
    subject = audit.subject
    parts = [Markup("{}<br><small>pair&nbsp;{}</small>").format(_caption(audit, pair), pair)]
    if subject.is_mismatched is not None and subject.is_mismatched.any():
        is_wrong = bool(subject.is_mismatched[pair])
        parts.append(badge("mismatched", "wrong") if is_wrong else badge("matched", "right"))
    if subject.unknown_words is not None and subject.unknown_words[pair]:
        count = int(subject.unknown_words[pair])
        parts.append(badge(f"{count} unknown word{'s' * (count > 1)}", "plain"))
    return Markup("<br>").join(parts)


def _better_caption(audit: Audit, number: int, score: float) -> Cell:
    if number == NOBODY:
        return "none"
    return Markup("{}<br><small>caption&nbsp;{}, {:.3f}</small>").format(_caption(audit, number), number, score)


def _better_image(thumbnails: Thumbnails | None, number: int, score: float) -> Cell:
    if number == NOBODY:
        return "none"
    return Markup("{}<small>, {:.3f}</small>").format(_picture(thumbnails, number), score)
