"""docs/flags.md: every flag of every command, made from what `--help` says.

    python -m tests.flags_page

writes the page anew. `tests/test_flags.py` compares it with the flags of now, so that no flag comes, goes or changes
its default unseen. The page depends neither on the terminal's width nor on how a version of Python prints its help.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from runtime.flags import OneLineParser

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "flags.md"
BAR = "\\|"
"""A `|` within a cell."""
INTRODUCTION = """# All flags

Made from what `--help` says: after a flag was added or changed, `python -m tests.flags_page` writes this page anew.

`python run.py --help` shows the flags that people use, `--help_all` every one. `@FILE` on the command line of any
command stands for the flags in that file, one or more a line; `#` starts a comment. Flags after the file win. `~` is
your home in paths and in `@FILE`. If two flags on the command line contradict each other, the later one counts and a
line says so.
"""


def entry_points() -> Iterator[str]:
    """Yield the modules that are commands of the suite."""
    rooms = [file.parent for file in ROOT.glob("*/__init__.py") if file.parent.name != "tests"]
    for path in sorted([*ROOT.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]):
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


def parser_of(module: str) -> OneLineParser:
    """Return the parser whose help `module`'s command prints."""
    shown: list[OneLineParser] = []
    main = importlib.import_module(module).main
    with (
        mock.patch.object(OneLineParser, "print_help", lambda parser: shown.append(parser)),
        contextlib.suppress(SystemExit),
    ):
        main(["--help"])
    return shown[0]


def rows(parser: OneLineParser) -> Iterator[str]:
    """Yield the tables of a command's flags, line by line."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if not actions:
            continue
        yield from ("", f"**{group.title}**", "", "| flag | what |", "|---|---|")
        for action in actions:
            value = f" {action.metavar}" if action.metavar and action.option_strings else ""
            names = ", ".join(f"`{name}{value}`" for name in action.option_strings) or f"`{action.dest}`"
            text = formatter._expand_help(action) if action.help else ""
            yield f"| {names} | {text.replace('|', BAR).replace('<', '&lt;')} |"


def page() -> str:
    """Return the text of docs/flags.md."""
    parsers = sorted(map(parser_of, entry_points()), key=lambda p: ("-m" in p.prog, "run.py" not in p.prog, p.prog))
    sections = [
        "\n".join([f"## `{parser.prog}`", "", parser.description or "", *rows(parser)]) + "\n" for parser in parsers
    ]
    return "\n".join([INTRODUCTION, *sections])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
