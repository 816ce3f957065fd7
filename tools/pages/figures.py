"""Charts: Vega-Lite specifications, drawn in the reader's browser by the one copy of the library in the page.

Vega-Lite and not Plotly: 0.9 MB in the file instead of 4.8, and SVG whose colours are the page's CSS variables, so that
light, dark and print need no redrawing. `vl-convert-python` holds the library; nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from markupsafe import Markup

from runtime.packages import require
from tools.pages.table import Cell, table
from tools.pages.text import details

try:
    import vl_convert
except ImportError:  # an optional extra: the rest of the suite works without charts
    vl_convert: Any = None  # type: ignore[no-redef]

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
