"""The page: what it escapes, what it forbids, tables, charts, pictures."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from markupsafe import Markup

from runtime.errors import InputError
from tools.pages import page as page_module
from tools.pages.page import Page, badge, details, figure, grid, heading, note, table
from tools.pages.pictures import Thumbnails, find_pictures

Image = pytest.importorskip("PIL.Image")

EVIL = "</script x</script><script>alert(1)</script><!--<script <img src=x onerror=alert(2)>\"'&"
SPEC = {
    "data": {"values": [{"x": 1, "y": 2, "s": EVIL}, {"x": 2, "y": 1, "s": EVIL}]},
    "mark": "line",
    "encoding": {
        "x": {"field": "x", "type": "quantitative"},
        "y": {"field": "y", "type": "quantitative"},
        "color": {"field": "s", "type": "nominal"},
    },
}


class Elements(HTMLParser):
    """Collects elements and attributes, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def chart() -> Markup:
    return figure(SPEC, title=EVIL, text=EVIL, data=((EVIL, "n"), [(EVIL, 1.0)]))


def everything() -> str:
    page = Page(EVIL, lead=EVIL)
    pieces = (EVIL, note(EVIL), heading(EVIL), details(EVIL, EVIL), badge(EVIL, "plain"), grid([EVIL]), chart())
    page.section(EVIL, *pieces, table((EVIL,), [(EVIL,)], caption=EVIL))
    page.section(EVIL, "again")
    return page.html()


def test_nothing_of_other_people_becomes_markup() -> None:
    seen = Elements(everything())
    assert seen.all("img") == []
    kinds = [attributes.get("type") for attributes in seen.all("script")]
    assert kinds == ["application/json", None, None], "the chart's data, the library, the page's own script"
    assert not [a for _, attributes in seen.found for a in attributes if a.startswith("on")]


def test_the_policy_allows_the_two_scripts_and_no_request() -> None:
    text = everything()
    (policy,) = (a["content"] for a in Elements(text).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "unsafe-eval" not in policy and "script-src 'unsafe-inline'" not in policy


def test_chart_data_survive_the_escaping() -> None:
    content = re.search(r'<script type="application/json">(.*?)</script>', chart(), flags=re.DOTALL)
    assert content is not None and json.loads(content[1])["data"] == SPEC["data"]
    assert not set("<>&") & set(content[1]), "a browser ends a script at more than its end tag"
    with pytest.raises(ValueError, match="JSON"):
        figure({"data": float("nan")}, title="", text="", data=((), []))


def test_cells() -> None:
    seen = table(("name", "n", "share"), [("a", 12345, 1.25), ("b", None, float("nan"))], caption="C", digits=2)
    assert "12,345" in seen and "1.25" in seen and seen.count("–") == 2
    assert seen.count('<td class="number">') == 4 and '<th scope="row" class="short">a</th>' in seen
    plain = table(("x", "y"), [("1.0 ± 2", True)], caption="C", right=("x",), heads=0)
    assert '<td class="number">1.0 ± 2</td>' in plain and ">yes<" in plain


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "vl_convert", None)
    page_module.library.cache_clear()
    page = Page("Charts")
    page.section("One", chart())
    with pytest.raises(InputError, match="pip install -r requirements-report.txt"):
        page.html()


# -- pictures -----------------------------------------------------------------------------------------------------


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (200, 100)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def never(text: str) -> None:
    raise AssertionError(text)


def indexed(folder: Path, count: int) -> Path:
    for k in range(count):
        picture(folder / "photos" / f"{k}.png", (k, 100, 200))
    (folder / "test_images.txt").write_text("\n".join(f"photos/{k}.png" for k in range(count)) + "\n", encoding="utf-8")
    return folder


def test_pictures_of_an_index_file(tmp_path: Path) -> None:
    found = find_pictures(indexed(tmp_path, 3), "test", 3, None, never)
    assert found is not None and len(found) == 3
    assert found.pixels(2)[0, 0].tolist() == [2, 100, 200]
    thumbs = Thumbnails(found, size=50)
    head, _, content = thumbs.uri(1).partition(",")
    assert head == "data:image/webp;base64" and len(content) < 3000
    assert 'alt="&lt;a&gt;"' in thumbs.image(0, "<a>")
    assert find_pictures(tmp_path, "dev", 3, None, never) is None


def test_pictures_elsewhere(tmp_path: Path) -> None:
    indexed(tmp_path / "set", 2)
    (tmp_path / "set" / "photos").rename(tmp_path / "photos")
    found = find_pictures(tmp_path / "set", "test", 2, str(tmp_path), never)
    assert found is not None and len(found) == 2
    with pytest.raises(InputError, match="2 of 2 pictures are missing"):
        find_pictures(tmp_path / "set", "test", 2, str(tmp_path / "set"), never)
    said: list[str] = []
    assert find_pictures(tmp_path / "set", "test", 2, None, said.append) is None
    (line,) = said
    assert "pictures of test are left out: 2 of 2 pictures are missing" in line and "--pictures DIR" in line
    (tmp_path / "set" / "test_images_folder.txt").write_text(f"{tmp_path}\n", encoding="utf-8")
    assert find_pictures(tmp_path / "set", "test", 2, None, never) is not None, "where they were extracted from"
    with pytest.raises(InputError, match="dev_images.txt is not there"):
        find_pictures(tmp_path / "set", "dev", 2, str(tmp_path), never)


def test_a_picture_index_that_does_not_match(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 pictures of test, the features have 3 images"):
        find_pictures(indexed(tmp_path, 2), "test", 3, None, never)
    (tmp_path / "test_images.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match="in UTF-8"):
        find_pictures(tmp_path, "test", 1, None, never)


def test_thumbnails_of_a_data_set_come_first(tmp_path: Path) -> None:
    indexed(tmp_path, 1)
    content = (tmp_path / "photos" / "0.png").read_bytes()
    with h5py.File(tmp_path / "thumbnails.h5", "w") as file:
        file["test/bytes"] = np.frombuffer(content * 2, dtype=np.uint8)
        file["test/offsets"] = np.array([0, len(content), 2 * len(content)])
    found = find_pictures(tmp_path, "test", 2, None, never)
    assert found is not None and len(found) == 2
