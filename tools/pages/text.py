"""Pieces of running text and layout. Each takes text or `Markup` and returns `Markup`; text is escaped."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

Piece = str | Markup


def joined(pieces: Iterable[Piece]) -> Markup:
    """Put pieces one after another; a piece that is plain text becomes a paragraph."""
    return Markup("\n").join(piece if isinstance(piece, Markup) else paragraph(piece) for piece in pieces)


def paragraph(text: Piece) -> Markup:
    """Return a paragraph."""
    return Markup("<p>{}</p>").format(text)


def note(text: Piece) -> Markup:
    """Return a paragraph that is set apart: what is missing, what must be kept in mind."""
    return Markup('<p class="note">{}</p>').format(text)


def heading(text: Piece, level: int = 3) -> Markup:
    """Return a heading below a section's (level 3 to 5)."""
    assert 3 <= level <= 5
    return Markup("<h{0}>{1}</h{0}>").format(level, text)


def details(summary: Piece, *pieces: Piece) -> Markup:
    """Return what is shown when its summary is opened; closed in print as well."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, joined(pieces))


def grid(pieces: Iterable[Piece], *, narrow: bool = False) -> Markup:
    """Put pieces beside each other as far as there is room, at least 22 em each (`narrow`: 13 em)."""
    kind = "grid narrow" if narrow else "grid"
    return Markup('<div class="{}">{}</div>').format(
        kind, Markup("\n").join(Markup("<div>{}</div>").format(joined([piece])) for piece in pieces)
    )


def badge(text: str, kind: str) -> Markup:
    """Return a small label; kind is `right`, `wrong` or `plain`. The text must say it too, not the colour alone."""
    assert kind in ("right", "wrong", "plain")
    return Markup('<span class="badge {}">{}</span>').format(kind, text)


def tick(is_right: bool) -> Markup:
    """Return ✓ or ✗, read out as "right" or "wrong"."""
    sign, text = ("✓", "right") if is_right else ("✗", "wrong")
    return Markup(
        '<span class="badge {1}"><span aria-hidden="true">{0}</span><span class="unseen">{1}</span></span>'
    ).format(sign, text)
