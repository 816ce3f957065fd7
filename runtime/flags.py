"""Flags from dataclasses: one field is one `--flag`, with its help, choices and default in one place.

A config is a frozen dataclass whose fields are made by `flag`, or by `word` for an argument without a name.
`add_flags` turns its fields into argparse arguments, `from_namespace` turns the parsed namespace back into the config.
Nothing else ever sees a namespace.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from runtime.errors import InputError, one_line, say_aside

DEEPEST_FILE = 8
"""Argument files that name each other in a row."""

_UNKNOWN = "unrecognized arguments: "
"""How argparse begins its message."""

MOST_WORDS = 2000
"""Arguments of a file: argparse takes a time that grows with their square."""

Config = TypeVar("Config")

PATHS = ("FILE", "DIR")
"""Values that stand for a path: `~` at their beginning is the user's home, wherever they were written."""


def flag(default: Any, help: str, *, choices: Iterable[str] | None = None, metavar: str | None = None) -> Any:
    """Declare a config field that is also a command-line flag.

    Args:
        default: default value; its field's annotation (int, float, str, bool, or one of these `| None`) sets the type.
        help: what the flag does, in one sentence.
        choices: allowed names, if it is a name.
        metavar: what --help calls the value: FILE or DIR for a path, RATIO for a share; by default the type's name.
    """
    known = tuple(choices) if choices is not None else None
    return dataclasses.field(default=default, metadata={"help": help, "choices": known, "metavar": metavar})


def word(help: str, *, choices: Iterable[str] | None = None, optional: bool = False, metavar: str | None = None) -> Any:
    """Declare a config field that is given by its place on the command line, without a `--name`.

    Args:
        help: what the word says, in one sentence.
        choices: allowed words.
        optional: it may be left out, and is then None.
        metavar: FILE or DIR for a path; --help shows the field's name all the same.
    """
    known = tuple(choices) if choices is not None else None
    metadata = {"help": help, "choices": known, "metavar": metavar, "is_word": True}
    return dataclasses.field(default=None, metadata=metadata) if optional else dataclasses.field(metadata=metadata)


def did_you_mean(given: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ` did you mean X?` for the known name that is most like a given one, or nothing if none is."""
    names = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(given.lower(), names, n=1)
    return f" did you mean {prefix}{names[nearest[0]]}?" if nearest else ""


def check_choices(config: Any) -> None:
    """Raise `InputError` for a field whose value is not among its declared choices."""
    for field in dataclasses.fields(config):
        known = field.metadata.get("choices")
        value = getattr(config, field.name)
        if known is not None and value not in known:
            raise InputError(
                f"--{field.name} {value!r} is unknown;{did_you_mean(str(value), known)} known: {', '.join(known)}"
            )


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


class _HelpAll(argparse.Action):
    """Print the help of every flag and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        assert isinstance(parser, OneLineParser)
        parser.shows_all = True
        parser.print_help()
        parser.exit()


class OneLineParser(argparse.ArgumentParser):
    """argparse with `@file` arguments, comments in those files, exact flag names, and one-line errors.

    Args:
        common: of very many flags those that `--help` shows; `--help_all` then shows all.
        settings: of argparse.
    """

    def __init__(self, *, common: Collection[str] = (), **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **settings)
        self.declared: dict[str, dataclasses.Field] = {}
        """Fields that are flags already."""
        self.common, self.shows_all = common, not common
        if common:
            self.usage = "%(prog)s [@FILE ...] [--FLAG VALUE ...]"
            self.add_argument(
                "--help_all", action=_HelpAll, nargs=0, default=argparse.SUPPRESS, help="show every flag and exit"
            )

    def format_help(self) -> str:
        """Return the help, of a short one only what is common."""
        if self.shows_all:
            return super().format_help()
        rare = [action for action in self._actions if action.dest in self.declared.keys() - set(self.common)]
        texts = [action.help for action in rare]
        for action in rare:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in zip(rare, texts, strict=True):
                action.help = text

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """Split a line of an argument file at spaces; `#` starts a comment."""
        return arg_line.split("#", 1)[0].split()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Do what argparse does, with the arguments of files in the place of their names.

        Where flags contradict each other the later one wins; if both stand on the command line itself, that is said.
        """
        if args is None:
            self._tell_contradictions(sys.argv[1:])
        given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._with_files(given), namespace)

    def _with_files(self, args: Sequence[str], within: tuple[str, ...] = ()) -> list[str]:
        """Return arguments with those of each `@FILE` in its place; files may name files."""
        expanded: list[str] = []
        for argument in args:
            if argument.startswith("@"):
                name = os.path.expanduser(argument[1:])
                expanded += self._with_files(self._arguments_of(name, within), (*within, name))
            else:
                expanded.append(argument)
        return expanded

    def _arguments_of(self, name: str, within: tuple[str, ...]) -> list[str]:
        """Return the words of an argument file."""
        if len(within) == DEEPEST_FILE:
            self.error(f"argument files name each other without end, or too deep: {' -> '.join((*within, name))}")
        if not os.path.isfile(name):
            self.error(f"no argument file at {name!r}, which @{name} names")
        try:
            lines = Path(name).read_bytes().decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.error(f"argument file {name} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}")
        words = [word for line in lines for word in self.convert_arg_line_to_args(line)]
        if len(words) > MOST_WORDS:
            self.error(f"argument file {name} holds {len(words)} arguments; {MOST_WORDS} at most")
        return words

    def _tell_contradictions(self, words: Sequence[str]) -> None:
        """Say which flags are given twice with different values; one that overrides a file's is none of these."""
        found: dict[str, str] = {}
        for place, argument in enumerate(words):
            name, is_joined, value = argument.partition("=")
            action = self._option_string_actions.get(name)
            if action is None:
                continue
            if action.nargs != 0 and not is_joined:
                value = " ".join(words[place + 1 : place + 2])
            given = f"{name} {value}".strip()
            if found.get(action.dest, given) != given:
                say_aside(f"warning: {found[action.dest]} and {given} are both given; the later one counts")
            found[action.dest] = given

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
        """Print the fault in one line, with what was perhaps meant, and exit with code 2."""
        unknown, hint = message.removeprefix(_UNKNOWN), ""
        if unknown != message:
            first = (unknown.split() or [""])[0]
            if first.startswith("-"):
                stem = first.partition("=")[0].lstrip("-").replace("-", "_")
                hint = did_you_mean(stem, (name[2:] for name in self._option_string_actions), "--")
            elif first.endswith(".args") or os.path.isfile(first):
                hint = f" did you mean @{first}, the flags in that file?"
        message += hint and f";{hint}"
        self.exit(2, f"error: {one_line(message)} ({'--help_all' if self.common else '--help'} lists every flag)\n")


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
        metavar = field.metadata["metavar"]
        read: Callable[[str], Any] = os.path.expanduser if metavar in PATHS else kind
        name = f"--{field.name}"
        if field.metadata.get("is_word"):
            count = "?" if field.default is None else None
            group.add_argument(field.name, type=read, nargs=count, choices=known, help=help_text)
            continue
        if known:
            help_text += f" [{' | '.join(known)}]"
        if kind is bool and field.name.startswith("no_"):
            group.add_argument(name, action="store_true", help=help_text)
        elif kind is bool:
            action = argparse.BooleanOptionalAction
            group.add_argument(name, action=action, default=field.default, help=help_text)
        else:
            metavar = "NAME" if known else metavar or kind.__name__.upper()
            group.add_argument(name, type=read, default=field.default, metavar=metavar, help=help_text)


def from_namespace(config: type[Config], namespace: argparse.Namespace) -> Config:
    """Build one config from the parsed flags; its own `__post_init__` checks the values."""
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    return config(**{name: getattr(namespace, name) for name in names})


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def from_stored(config: type[Config], values: Any, where: str) -> Config:
    """Build a config of plain values from what a file holds of it; fields that the file lacks have their defaults.

    Args:
        config: a dataclass of int, float, str, bool, or one of these `| None`.
        values: what the file holds.
        where: names the file, and the part of it.

    Raises:
        InputError: a name that the config does not have, one it needs and the file lacks, or a value of another type
            or range.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} holds no names and values")
    fields, hints = {field.name: field for field in dataclasses.fields(config)}, typing.get_type_hints(config)  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in fields:
            raise InputError(f"{where}: {name!r} is no setting of this version")
        hint = hints[name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if not _fits(value, kinds):
            names = " or ".join("nothing" if kind is types.NoneType else kind.__name__ for kind in kinds)
            raise InputError(f"{where}: {name} is {value!r}; it must be {names}")
    needed = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in values]
    if needed:
        raise InputError(f"{where} lacks {', '.join(needed)}")
    try:
        return config(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
