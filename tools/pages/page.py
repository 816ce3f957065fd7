"""Self-contained HTML pages: the shell, pieces of text, tables.

The page is one file that opens from disk without a network. Its own content policy forbids every request and every
script but the two in it, by their digests: what a caption or a file name holds can never run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from runtime.files import write_atomically
from runtime.packages import require

try:
    import vl_convert
except ImportError:  # an optional extra: the rest of the suite works without charts
    vl_convert: Any = None  # type: ignore[no-redef]


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


Cell = str | Markup | int | float | bool | None
UNKNOWN = "–"
SHORT, LONG = 34, 16
"""A column whose cells have no more than `SHORT` characters is not broken into lines on a screen, one with no more than
`LONG` not within words in print."""


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, (int, float, np.integer, np.floating)) and not isinstance(cell, bool)


def _shown(cell: Cell, digits: int) -> Cell:
    if cell is None or (isinstance(cell, (float, np.floating)) and not np.isfinite(cell)):
        return UNKNOWN
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, (float, np.floating)):
        return f"{cell:,.{digits}f}"
    return f"{cell:,}" if _is_number(cell) else cell


def table(
    columns: Sequence[Cell],
    rows: Iterable[Sequence[Cell]],
    *,
    caption: str,
    digits: int = 1,
    heads: int = 1,
    strong: Iterable[int] = (),
    right: Iterable[str] = (),
) -> Markup:
    """Return a table.

    Args:
        columns: header cells.
        rows: cells; floats get `digits` decimals, thousands a comma, None and NaN a dash; numbers stand to the right.
        caption: its title, which also names the region that scrolls.
        heads: so many first cells of a row are its heading (0: none).
        strong: numbers of rows to be set in bold.
        right: columns to be set to the right though their cells are text.
    """
    rows, bold = [list(row) for row in rows], set(strong)
    to_the_right = set(right)
    is_number = [name in to_the_right or any(_is_number(row[k]) for row in rows) for k, name in enumerate(columns)]
    widths = [max((len(str(row[k])) for row in rows), default=0) for k in range(len(columns))]
    kinds = [_kind(*column) for column in zip(is_number, widths, strict=True)]
    head = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(_RIGHT if is_number[k] else "", name)
        for k, name in enumerate(columns)
    )
    body = Markup("\n").join(
        Markup("<tr{}>{}</tr>").format(
            Markup(' class="strong"') if number in bold else "",
            Markup("").join(
                Markup('<th scope="row"{}>{}</th>' if k < heads else "<td{}>{}</td>").format(
                    kinds[k], _shown(cell, digits)
                )
                for k, cell in enumerate(row)
            ),
        )
        for number, row in enumerate(rows)
    )
    return Markup(
        '<div class="scroll" role="group" tabindex="0" aria-label="{0}"><table><caption>{0}</caption>'
        "<thead><tr>{1}</tr></thead>\n<tbody>{2}</tbody></table></div>"
    ).format(caption, head, body)


_RIGHT = Markup(' class="number"')


def _kind(is_number: bool, width: int) -> Markup:
    if is_number:
        return _RIGHT
    names = ("short",) * (width <= SHORT) + ("long",) * (width > LONG)
    return Markup(' class="{}"').format(" ".join(names))


VEGA_LITE = "6.4"
COLOURS = tuple(f"var(--c{k})" for k in range(1, 9))
"""Series in order; style.css has their values for light, dark and print, told apart by every kind of colour vision."""

MATCHED, MISMATCHED, NEUTRAL, INK = "var(--matched)", "var(--mismatched)", "var(--neutral)", "var(--ink)"
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])

MARK = 'class="chart"'
"""A page with this in it needs the library."""

_FONT = "system-ui, sans-serif"
_LETTERS = {"labelFont": _FONT, "titleFont": _FONT, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 500}
_CONFIG = {
    "background": "transparent",
    "font": _FONT,
    "view": {"stroke": None},
    "range": {"category": list(COLOURS)},
    "axis": {
        **_LETTERS,
        "labelColor": "var(--soft-ink)",
        "titleColor": INK,
        "gridColor": "var(--line)",
        "domainColor": "var(--soft-ink)",
        "tickColor": "var(--soft-ink)",
    },
    "legend": {
        **_LETTERS,
        "labelColor": INK,
        "titleColor": INK,
        "orient": "top",
        "layout": {"top": {"direction": "vertical", "anchor": "start"}},
        "rowPadding": 2,
        "symbolStrokeWidth": 2.5,
        "labelLimit": 320,
    },
    "text": {"fill": INK, "font": _FONT, "fontSize": 12},
    "rule": {"stroke": INK},
    "line": {"strokeWidth": 2},
}


def figure(
    spec: dict[str, Any],
    *,
    title: str,
    text: str,
    data: tuple[Sequence[Cell], Iterable[Sequence[Cell]]],
    height: int = 240,
    digits: int = 3,
) -> Markup:
    """Return a chart with its title, what it shows in words, and its data as a table to be opened.

    Args:
        spec: a Vega-Lite view or layers, with its data inline, without width, height and config.
        title: one line, shown above.
        text: what can be seen, in a sentence or two; it stands for the chart where that is not seen.
        data: columns and rows of the table.
        height: of the plotting area, in pixels.
        digits: decimals in the table.
    """
    whole = {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
        **spec,
    }
    return Markup(
        '<figure><figcaption>{}</figcaption><div class="chart" role="img" aria-label="{}" style="min-height:{}px">'
        '</div><script type="application/json">{}</script>{}</figure>'
    ).format(
        title, f"{title}. {text}", height, as_script(whole), details(f"Data: {title}", _plain(data, title, digits))
    )


def _plain(data: tuple[Sequence[Cell], Iterable[Sequence[Cell]]], title: str, digits: int) -> Markup:
    columns, rows = data
    return table(columns, rows, caption=title, digits=digits)


def as_script(value: Any) -> Markup:
    """Return JSON that can stand within a script element, whatever its strings hold.

    Raises:
        ValueError: a number is not finite; JSON has none.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704


@cache
def library() -> str:
    """Return the charts' library as one script.

    Raises:
        InputError: the optional extra is not installed.
    """
    require(vl_convert, "vl-convert-python", "charts need")
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)


HERE = Path(__file__).parent
TEMPLATE, STYLE, SCRIPT = "page.html.j2", "style.css", "page.js"
TEMPLATES = Environment(
    loader=PackageLoader("tools.pages", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Section:
    """A part of a page with a place in its contents."""

    anchor: str
    title: str
    body: Markup


class Page:
    """A page in the making.

    Args:
        title: shown on top and as the name of the window.
        lead: a sentence or two below the title.
    """

    def __init__(self, title: str, *, lead: Piece = "") -> None:
        self._title, self._lead = title, lead
        self._sections: list[Section] = []

    def section(self, title: str, *pieces: Piece) -> None:
        """Add a section. Plain text becomes a paragraph and is escaped; `Markup` is taken as it is."""
        base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        taken = {section.anchor for section in self._sections}
        anchor = base if base not in taken else f"{base}-{len(taken)}"
        self._sections.append(Section(anchor, title, joined(pieces)))

    def html(self) -> str:
        """Return the whole file.

        Raises:
            InputError: there are charts, and their library is not installed.
        """
        has_charts = any(MARK in section.body for section in self._sections)
        scripts = ([library()] if has_charts else []) + [(HERE / SCRIPT).read_text(encoding="utf-8")]
        return TEMPLATES.get_template(TEMPLATE).render(
            title=self._title,
            lead=self._lead,
            sections=self._sections,
            style=Markup((HERE / STYLE).read_text(encoding="utf-8")),
            scripts=[Markup(script) for script in scripts],
            digests=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        )

    def write(self, path: Path) -> int:
        """Write the file, whole or not at all; return its size in bytes.

        Raises:
            InputError: it cannot be written.
        """
        content = self.html().encode()
        write_atomically(path, content)
        return len(content)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
