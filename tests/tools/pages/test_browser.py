"""A page in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.pages.browser import PHONE, opened
from tests.tools.pages.test_page import EVIL, SPEC
from tools.pages.page import Page, figure, table

LABEL = "getComputedStyle(document.querySelector('.chart svg .role-axis-label text')).fill"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = Page("A page", lead=EVIL)
    page.section("First", EVIL, figure(SPEC, title=EVIL, text="text", data=(("x", "y"), [(1, 2)])))
    columns = [f"column {k}" for k in range(30)]
    page.section("Second", table(columns, [list(range(30))], caption="A wide table"))
    target = tmp_path_factory.mktemp("page") / "page.html"
    page.write(target)
    return target


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [None, PHONE], ids=["desk", "phone"])
def test_it_draws_without_a_word_or_a_request(path: Path, scheme: str, size: dict[str, int] | None) -> None:
    with opened(path, scheme=scheme, size=size) as seen:
        assert seen.errors == [] and seen.requests == [path.as_uri()]
        assert seen.page.locator(".chart svg path").count() > 0
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        channels = [int(n) for n in seen.page.evaluate(LABEL).removeprefix("rgb(").removesuffix(")").split(",")]
        assert (sum(channels) / 3 > 128) == (scheme == "dark"), "labels of charts follow the scheme"
