"""Flags from dataclasses: one field is one `--flag`, with its help, choices and default in one place.

A config is a frozen dataclass whose fields are made by `flag`, or by `word` for an argument without a name.
`add_flags` turns its fields into argparse arguments, `from_namespace` turns the parsed namespace back into the config.
Nothing else ever sees a namespace.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from runtime.errors import InputError, one_line

DEEPEST_FILE = 8
"""Argument files that name each other in a row."""

MOST_WORDS = 2000
"""Arguments of a file: argparse takes a time that grows with their square."""

Config = TypeVar("Config")


def flag(default: Any, help: str, *, choices: Iterable[str] | None = None) -> Any:
    """Declare a config field that is also a command-line flag.

    Args:
        default: default value; its field's annotation (int, float, str, bool, or one of these `| None`) sets the type.
        help: what the flag does, in one sentence.
        choices: allowed names, if it is a name.
    """
    known = tuple(choices) if choices is not None else None
    return dataclasses.field(default=default, metadata={"help": help, "choices": known})


def word(help: str, *, choices: Iterable[str] | None = None, optional: bool = False) -> Any:
    """Declare a config field that is given by its place on the command line, without a `--name`.

    Args:
        help: what the word says, in one sentence.
        choices: allowed words.
        optional: it may be left out, and is then None.
    """
    metadata = {"help": help, "choices": tuple(choices) if choices is not None else None, "is_word": True}
    return dataclasses.field(default=None, metadata=metadata) if optional else dataclasses.field(metadata=metadata)


def check_choices(config: Any) -> None:
    """Raise `InputError` for a field whose value is not among its declared choices."""
    for field in dataclasses.fields(config):
        known = field.metadata.get("choices")
        value = getattr(config, field.name)
        if known is not None and value not in known:
            raise InputError(f"--{field.name} {value!r} is unknown; known: {', '.join(known)}")


def check_range(config: Any, name: str, *, low: float, high: float = float("inf"), high_open: bool = False) -> None:
    """Raise `InputError` unless the field `name` lies in [low, high] (or [low, high) with `high_open`)."""
    value = getattr(config, name)
    if not (low <= value <= high) or (high_open and value == high):
        upper = "" if high == float("inf") else f" and {'below' if high_open else 'at most'} {high:g}"
        raise InputError(f"--{name} {value} is out of range; it must be at least {low:g}{upper}")


def require(config: Any, name: str, advice: str) -> None:
    """Raise `InputError` if the field `name`, which has no default, was not given; `advice` says what to give."""
    if getattr(config, name) is None:
        raise InputError(f"--{name} is missing; {advice}")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults, but not that of a flag that is simply unset."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """argparse with `@file` arguments, comments in those files, exact flag names, and one-line errors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **settings)
        self.declared: dict[str, dataclasses.Field] = {}
        """Fields that are flags already."""

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """Split a line of an argument file at spaces; `#` starts a comment."""
        return arg_line.split("#", 1)[0].split()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Do what argparse does, with the arguments of files in the place of their names."""
        given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._with_files(given), namespace)

    def _with_files(self, args: Sequence[str], within: tuple[str, ...] = ()) -> list[str]:
        """Return arguments with those of each `@FILE` in its place; files may name files."""
        expanded: list[str] = []
        for argument in args:
            if argument.startswith("@"):
                expanded += self._with_files(self._arguments_of(argument[1:], within), (*within, argument[1:]))
            else:
                expanded.append(argument)
        return expanded

    def _arguments_of(self, name: str, within: tuple[str, ...]) -> list[str]:
        """Return the words of an argument file."""
        if len(within) == DEEPEST_FILE:
            self.error(f"argument files name each other without end, or too deep: {' -> '.join((*within, name))}")
        if not name or not Path(name).is_file():
            self.error(f"no argument file at {name!r}, which @{name} names")
        try:
            lines = Path(name).read_bytes().decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.error(f"argument file {name} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}")
        words = [word for line in lines for word in self.convert_arg_line_to_args(line)]
        if len(words) > MOST_WORDS:
            self.error(f"argument file {name} holds {len(words)} arguments; {MOST_WORDS} at most")
        return words

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Do what argparse does, but let words stand between flags as well as before them."""
        if any(field.metadata.get("is_word") for field in self.declared.values()):
            return self.parse_intermixed_args(args, namespace)
        return super().parse_args(args, namespace)

    def tell_defaults(self, special: Mapping[str, Mapping[str, Any]]) -> None:
        """Show in the help which flags have another default with what: name of the choice -> {flag: value}."""
        told: dict[str, list[str]] = {}
        for name, values in special.items():
            for own, value in values.items():
                told.setdefault(own, []).append(f"; {name}: {value}".replace("%", "%%"))
        assert not (wrong := told.keys() - self.declared.keys()), f"no such flags: {', '.join(wrong)}"
        for action in self._actions:
            if action.dest in told:
                text = (action.help or "").removesuffix(" (default: %(default)s)")  # some Pythons add it to switches
                action.help = f"{text} (default: %(default)s{''.join(told[action.dest])})"

    def error(self, message: str) -> NoReturn:
        """Print the fault in one line and exit with code 2."""
        self.exit(2, f"error: {one_line(message)} (--help lists every flag)\n")


def _value_type(annotation: Any) -> type:
    if isinstance(annotation, types.UnionType):
        (annotation,) = (a for a in typing.get_args(annotation) if a is not type(None))
    return annotation


def add_flags(parser: OneLineParser, title: str, config: type) -> None:
    """Add one flag for each field of `config` under a help group.

    A field inherited from a config that was added before is that config's flag; the same name declared twice apart is
    our fault.
    """
    hints = typing.get_type_hints(config)
    group: argparse._ArgumentGroup | None = None
    for field in dataclasses.fields(config):
        if field.name in parser.declared:
            assert parser.declared[field.name].metadata is field.metadata, f"--{field.name} is declared twice"
            continue
        parser.declared[field.name] = field
        group = group or parser.add_argument_group(title)
        kind, help_text, known = _value_type(hints[field.name]), field.metadata["help"], field.metadata["choices"]
        name = f"--{field.name}"
        if field.metadata.get("is_word"):
            count = "?" if field.default is None else None
            group.add_argument(field.name, type=kind, nargs=count, choices=known, help=help_text)
            continue
        if known:
            help_text += f" [{' | '.join(known)}]"
        if kind is bool and field.name.startswith("no_"):
            group.add_argument(name, action="store_true", help=help_text)
        elif kind is bool:
            action = argparse.BooleanOptionalAction
            group.add_argument(name, action=action, default=field.default, help=help_text)
        else:
            metavar = "NAME" if known else kind.__name__.upper()
            group.add_argument(name, type=kind, default=field.default, metavar=metavar, help=help_text)


def from_namespace(config: type[Config], namespace: argparse.Namespace) -> Config:
    """Build one config from the parsed flags; its own `__post_init__` checks the values."""
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    return config(**{name: getattr(namespace, name) for name in names})
