"""The layout: a file imports only from layers below its own, and what must live in one place lives there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("runtime", "vocab", "data_utils", "models", "methods", "training", "tools", "benchmarks")
ENTRIES = ("evaluation", "run")
PACKAGES = (*(folder for folder in FOLDERS if folder != "benchmarks"), *ENTRIES)
SOURCES = {
    path.relative_to(ROOT).as_posix(): path
    for path in sorted([*ROOT.glob("*.py"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))])
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}

MAY_IMPORT = {
    "runtime": {"runtime"},
    "vocab": {"runtime", "vocab"},
    "data_utils": {"runtime", "vocab", "data_utils"},
    "models": {"runtime", "vocab", "models"},
    "evaluation": {"runtime", "vocab", "data_utils", "models"},
    "methods": {"runtime", "vocab", "data_utils", "models", "methods"},
    "training": {"runtime", "vocab", "data_utils", "models", "evaluation", "methods", "training"},
    "vocab.build": {"runtime", "vocab", "data_utils"},  # an entry point, as run.py is: no room imports it
    "run": {"runtime", "vocab", "data_utils", "models", "evaluation", "methods", "training"},
    "tools": {"runtime", "vocab", "data_utils", "models", "evaluation", "methods", "training", "tools"},
    "benchmarks": {*PACKAGES, "benchmarks", "tests"},
}
ALSO = {
    "models/matcher.py": {"data_utils.loaders"},  # the batches that a matcher embeds
}
CATALOGUE = "data_utils/catalog.py"
BUILDING_NOTHING = {"vocab", "data_utils", "models", "methods", "training"}
PRINTING = (
    *("run.py", "evaluation.py", "tools/audit/__main__.py", "tools/search/__main__.py", "tools/report/__main__.py"),
    *("vocab/build.py", "tools/filter/__main__.py", "tools/filter/pooled.py"),
    *("tools/check/__main__.py", "tools/convert/__main__.py", "tools/extract/__main__.py", "tools/noise.py"),
    *("runtime/checkpoint.py", "runtime/packages.py", "runtime/log.py", "runtime/errors.py"),
)
PRINTING_FOLDERS = (
    *("benchmarks/", "tools/emoji_set/", "tools/table.py", "tools/sweep.py", "tools/drift.py"),
    *("tools/clip_tuning/ablation.py", "tools/clip_tuning/evaluate.py"),
)
PUBLISHED = re.compile(r"f30k|flickr|\bcoco(_precomp)?\b|cc152k")
NO_STEPS = ("torch.optim", "logging", "runtime.log", "runtime.device", "tqdm")
"""What models and methods do not import: they neither step nor log."""

TRAINERS = {"training/network.py", "tools/filter/adapter.py", "tools/clip_tuning/trainer.py"}
"""What differentiates a loss: a network, an adapter, a CLIP model."""
SLOW_TO_LOAD = ("scipy.", "sklearn.", "nltk.", "faiss.", "torch.utils.tensorboard")
"""Packages that may be imported where they are used, so that `--help` and the first line need not wait for them."""


def package_of(name: str) -> str:
    """Return the top-level package or module of a file or a dotted name."""
    return name.removesuffix(".py").replace("/", ".").split(".")[0]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of every module, or name in one, that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imported_modules(tree: ast.AST) -> set[str]:
    """Return the dotted names that a file imports."""
    return {module for _, module in imports(tree)}


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the string nodes that stand alone as statements."""
    return {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}


def called_attributes(tree: ast.AST, attribute: str) -> int:
    """Count the calls `something.attribute(...)`."""
    calls = (n.func for n in ast.walk(tree) if isinstance(n, ast.Call))
    return sum(isinstance(f, ast.Attribute) and f.attr == attribute for f in calls)


def test_all_packages_are_seen() -> None:
    assert {package_of(name) for name in SOURCES} >= set(PACKAGES)
    assert "evaluation.result_table" in imported_modules(TREES["training/trainer.py"])


def import_faults(name: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line of each import that points upwards, and what is wrong with it."""
    own, ours = name.removesuffix(".py").replace("/", "."), {*PACKAGES, "tests", "benchmarks"}
    room = own if own in MAY_IMPORT else package_of(name)
    for line, module in imports(tree):
        package = package_of(module)
        is_allowed = package in MAY_IMPORT[room] or any(module.startswith(extra) for extra in ALSO.get(name, ()))
        if package in ours and not is_allowed:
            yield line, f"imports {module} from above"
        if name.startswith("methods/blocks/") and package == "methods" and not module.startswith("methods.blocks."):
            yield line, f"a block knows no method: {module}"
        if room in BUILDING_NOTHING and f"{module}.".startswith("vocab.build."):
            yield line, f"imports {module}, an entry point"
        if room in ("models", "methods") and module.startswith(NO_STEPS):
            yield line, f"models and methods neither step nor log: {module}"


def faults(name: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the kind of everything that breaks a rule of one file alone."""
    yield from import_faults(name, tree)
    texts = docstrings(tree)
    may_print = name in PRINTING or name.startswith(PRINTING_FOLDERS)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside = ((line, module) for line, module in imports(node) if not f"{module}.".startswith(SLOW_TO_LOAD))
            yield from ((line, "imports inside a function") for line, _ in inside)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            if PUBLISHED.search(node.value) and name != CATALOGUE:
                yield node.lineno, f"names a published data set: {node.value!r}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            if not may_print:
                yield node.lineno, "prints"


@pytest.mark.parametrize("room", [*FOLDERS, "."])
def test_the_rules_of_a_file(room: str) -> None:
    """Room by room; `.` are the entry points."""
    own = [name for name in SOURCES if (name.split("/")[0] if "/" in name else ".") == room]
    found = [f"{name}:{line} {what}" for name in own for line, what in faults(name, TREES[name])]
    assert own and not found, "\n".join(found)


def test_the_rules_see_what_breaks_them() -> None:
    lines = {
        "from training.trainer import Trainer": ["imports training.trainer.Trainer from above"],
        "import tests.tiny": ["imports tests.tiny from above"],
        "import methods.ncr": ["a block knows no method: methods.ncr"],
        "from vocab.build import main": ["imports vocab.build.main, an entry point"],
        "import torch.optim": ["models and methods neither step nor log: torch.optim"],
        "def f(): import torch": ["imports inside a function"],
        "x = 'coco_precomp'": ["names a published data set: 'coco_precomp'"],
        "print(1)": ["prints"],
        "from methods.blocks.method import Method; 'flickr'; import models.losses; y = 'coconut'": [],
    }
    found = list(faults("methods/blocks/made_up.py", ast.parse("\n".join(lines))))
    expected = [(line, what) for line, whats in enumerate(lines.values(), start=1) for what in whats]
    assert sorted(found) == sorted(expected)
    assert any("published" in what for _, what in faults("vocab/made_up.py", TREES[CATALOGUE])), "it names them"


def test_no_drawer_files() -> None:
    drawers = {"utils", "common", "helpers", "util", "helper", "misc"}
    assert not [name for name in SOURCES if drawers & set(name.removesuffix(".py").split("/"))]


def test_device_moves_say_to() -> None:
    assert not [name for name, tree in TREES.items() if called_attributes(tree, "cuda")]


def test_argparse_stays_at_the_door() -> None:
    users = {name for name, tree in TREES.items() if "argparse" in imported_modules(tree)}
    assert users == {"runtime/flags.py"}
    assert not called_attributes(TREES["training/config.py"], "add_argument")


def test_losses_are_differentiated_in_one_place_of_each_trainer() -> None:
    counts = {name: called_attributes(tree, "backward") for name, tree in TREES.items()}
    assert {n for n, c in counts.items() if c and not n.startswith("benchmarks/")} == TRAINERS
    assert counts["training/network.py"] == counts["tools/filter/adapter.py"] == 1


def test_run_is_short() -> None:
    assert len(SOURCES["run.py"].read_text(encoding="utf-8").splitlines()) <= 80


def test_random_streams_are_passed_in() -> None:
    """The global generators are seeded in one place."""
    seeders = {name for name, tree in TREES.items() if called_attributes(tree, "manual_seed")}
    assert {n for n in seeders if not n.startswith("benchmarks/")} == {"runtime/seed.py"}
