"""A page: title, contents, sections, everything it needs inside one file that opens from disk without a network.

The page's own content policy forbids every request and every script but the two in it, by their digests: what a
caption or file name holds can never run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from runtime.files import write_atomically
from tools.pages.figures import MARK, library
from tools.pages.text import Piece, joined

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
