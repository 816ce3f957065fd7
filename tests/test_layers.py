"""The layout: a file imports only from layers below its own, and what must live in one place lives there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    *("runtime", "vocab", "data_utils", "models", "methods", "training", "tools", "pages"),
    *("auditing", "searching", "reporting", "benchmarks"),
)
ENTRIES = ("evaluation", "run", "audit", "search", "report")
PACKAGES = (*(folder for folder in FOLDERS if folder != "benchmarks"), *ENTRIES)
SOURCES = {
    path.relative_to(ROOT).as_posix(): path
    for path in sorted([*ROOT.glob("*.py"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))])
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}

BELOW = {"runtime", "vocab", "data_utils", "models"}
MAY_IMPORT = {
    "runtime": {"runtime"},
    "vocab": {"runtime", "vocab"},
    "data_utils": {"runtime", "vocab", "data_utils"},
    "models": {"runtime", "vocab", "models"},
    "evaluation": {"runtime", "vocab", "data_utils", "models"},
    "methods": {"runtime", "vocab", "data_utils", "models", "methods"},
    "training": {"runtime", "vocab", "data_utils", "models", "evaluation", "methods", "training"},
    "run": {"runtime", "vocab", "data_utils", "models", "evaluation", "methods", "training"},
    "tools": {"runtime", "vocab", "data_utils", "models", "evaluation", "methods", "training", "tools"},
    "pages": {"runtime", "data_utils", "pages"},
    "auditing": {*BELOW, "methods", "training", "tools", "pages", "auditing"},
    "audit": {*BELOW, "tools", "pages", "auditing"},
    "searching": {*BELOW, "tools", "pages", "searching"},
    "search": {*BELOW, "pages", "searching"},
    "reporting": {*BELOW, "evaluation", "methods", "training", "pages", "reporting"},
    "report": {*BELOW, "training", "pages", "reporting"},
    "benchmarks": {*PACKAGES, "benchmarks", "tests"},
}
ALSO = {
    "vocab/build.py": {"data_utils"},  # an entry point of its own: it reads captions
    "models/matcher.py": {"data_utils.batch"},  # the dataclass that a matcher embeds
    "reporting/results.py": {"benchmarks.comparable", "benchmarks.result_rows", "benchmarks.table"},  # the same table
}
PRINTING = (
    *("run.py", "evaluation.py", "audit.py", "search.py", "report.py"),
    *("vocab/build.py", "tools/filter/__main__.py", "tools/filter/pooled.py"),
    *("data_utils/check.py", "data_utils/convert.py", "data_utils/extract.py", "data_utils/noise.py"),
    *("runtime/checkpoint.py", "runtime/log.py", "runtime/errors.py"),
)
PRINTING_FOLDERS = (
    *("data_utils/emoji_builder/", "data_utils/set_builder/", "data_utils/tiles_builder/"),
    *("benchmarks/", "tools/clip_tuning/ablation.py", "tools/clip_tuning/evaluate.py"),
)
TRAINERS = {"training/network.py", "tools/filter/adapter.py", "tools/clip_tuning/step.py"}
"""What differentiates a loss: a network, an adapter, a CLIP model."""


def package_of(name: str) -> str:
    """Return the top-level package or module of a file or a dotted name."""
    return name.removesuffix(".py").replace("/", ".").split(".")[0]


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names of the modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the string nodes that stand alone as statements."""
    return {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}


def called_attributes(tree: ast.AST, attribute: str) -> int:
    """Count the calls `something.attribute(...)`."""
    calls = (n.func for n in ast.walk(tree) if isinstance(n, ast.Call))
    return sum(isinstance(f, ast.Attribute) and f.attr == attribute for f in calls)


def test_all_packages_are_seen() -> None:
    assert {package_of(name) for name in SOURCES} >= set(PACKAGES)
    assert "evaluation.result_table" in set(imported_modules(TREES["training/trainer.py"]))


@pytest.mark.parametrize("name", SOURCES)
def test_imports_point_downwards(name: str) -> None:
    allowed = MAY_IMPORT[package_of(name)]
    for module in imported_modules(TREES[name]):
        if package_of(module) in (*PACKAGES, "tests", "benchmarks") and package_of(module) not in allowed:
            assert any(module.startswith(extra) for extra in ALSO.get(name, ())), f"{name} imports {module}"
    if name.startswith("methods/blocks/"):
        own = [m for m in imported_modules(TREES[name]) if package_of(m) == "methods"]
        assert all(m.startswith("methods.blocks.") for m in own), "a block knows no method"
    if package_of(name) in ("vocab", "data_utils", "models", "methods", "training") and name not in ALSO:
        assert "vocab.build" not in {m.rpartition(".")[0] for m in imported_modules(TREES[name])}


@pytest.mark.parametrize("name", SOURCES)
def test_no_import_inside_a_function(name: str) -> None:
    functions = (n for n in ast.walk(TREES[name]) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))
    inside = [n.lineno for f in functions for n in ast.walk(f) if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert not inside, f"{name} imports inside a function at lines {inside}"


def test_no_drawer_files() -> None:
    drawers = {"utils", "common", "helpers", "util", "helper", "misc"}
    assert not [name for name in SOURCES if drawers & set(name.removesuffix(".py").split("/"))]


@pytest.mark.parametrize("name", SOURCES)
def test_only_the_catalogue_names_published_data_sets(name: str) -> None:
    tree = TREES[name]
    texts = docstrings(tree)
    strings = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    published = re.compile(r"f30k|flickr|\bcoco(_precomp)?\b|cc152k")
    named = [n.value for n in strings if id(n) not in texts and published.search(n.value)]
    assert bool(named) == (name == "data_utils/catalog.py"), named


def test_device_moves_say_to() -> None:
    assert not [name for name, tree in TREES.items() if called_attributes(tree, "cuda")]


def test_argparse_stays_at_the_door() -> None:
    users = {name for name, tree in TREES.items() if "argparse" in set(imported_modules(tree))}
    assert users == {"runtime/flags.py"}
    assert not called_attributes(TREES["training/config.py"], "add_argument")


def test_losses_are_differentiated_in_one_place_of_each_trainer() -> None:
    counts = {name: called_attributes(tree, "backward") for name, tree in TREES.items()}
    assert {n for n, c in counts.items() if c and not n.startswith("benchmarks/")} == TRAINERS
    assert counts["training/network.py"] == counts["tools/filter/adapter.py"] == 1


@pytest.mark.parametrize("name", [n for n in SOURCES if n not in PRINTING and not n.startswith(PRINTING_FOLDERS)])
def test_no_print(name: str) -> None:
    calls = (n for n in ast.walk(TREES[name]) if isinstance(n, ast.Call))
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


def test_run_is_short() -> None:
    assert len(SOURCES["run.py"].read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith(("models/", "methods/"))])
def test_models_and_methods_do_not_step_or_log(name: str) -> None:
    modules = set(imported_modules(TREES[name]))
    forbidden = ("torch.optim", "logging", "runtime.log", "runtime.device", "tqdm")
    assert not [m for m in modules if m.startswith(forbidden)]


def test_random_streams_are_passed_in() -> None:
    """The global generators are seeded in one place."""
    seeders = {name for name, tree in TREES.items() if called_attributes(tree, "manual_seed")}
    assert {n for n in seeders if not n.startswith("benchmarks/")} == {"runtime/seed.py"}
