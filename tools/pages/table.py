"""Tables that scroll within themselves on narrow screens and are read well by screen readers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup

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
