"""README and docs: links lead somewhere, commands, flags and recipes that are named exist, the worked example works."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from methods import Method
from methods.blocks.method import StudentAndPeer
from tests.flags_page import PAGE, ROOT, entry_points

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "recipes" / "README.md"]
OTHERS_FLAGS = {"nproc-per-node", "logdir"}
"""Of torchrun and tensorboard."""
LONGEST_README = 250


def anchors(path: Path) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists() and (not anchor or anchor in anchors(found)), f"{path.name}: {target} leads nowhere"
    modules = {"pytest", "venv", "tests.soak", "tests.golden", "tests.flags_page"}
    modules |= {name.removesuffix(".__main__") for name in entry_points()}
    named = re.findall(r"python (?:-m )?([\w.]+)", text)
    assert not {name.removesuffix(".py") for name in named if "." in name} - modules
    flags = set(re.findall(r"`--([\w-]+)", PAGE.read_text(encoding="utf-8"))) | {"help", "trust_power"} | OTHERS_FLAGS
    assert not set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", text)) - flags
    assert all((ROOT / name).exists() for name in re.findall(r"recipes/[a-z][\w.]*\.args", text))


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_the_worked_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that docs/adding_a_method.md shows is a method; its labels are those that it promises."""
    text = (ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = ModuleType("trust")
    monkeypatch.setitem(sys.modules, "trust", module)
    exec(code, vars(module))
    method: Method = module.METHOD(module.TrustConfig(trust_power=2.0))
    views: StudentAndPeer = None  # type: ignore[assignment]  # it looks at no pair
    labels = method.labels(views, None, torch.tensor([0.5, 1.0]))
    assert labels.clean.tolist() == [0.25, 1.0]
