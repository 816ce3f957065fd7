"""Pages in a real browser: Chromium through Playwright; tests that need it are skipped where either is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sync_api: Any = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@dataclass
class Opened:
    """A page in the browser, and what it did while it was opened."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def opened(path: Path, *, size: dict[str, int] | None = None, scheme: str = "light") -> Iterator[Opened]:
    """Open a file, wait until its charts are drawn."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(color_scheme=scheme, viewport=size or DESK).new_page()
        seen = Opened(page)
        page.on("console", lambda m: seen.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith("data:") else seen.requests.append(r.url))
        page.goto(path.as_uri())
        page.wait_for_function("document.documentElement.dataset.charts === 'drawn'", timeout=120_000)
        try:
            yield seen
        finally:
            browser.close()
