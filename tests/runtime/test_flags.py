"""Flags from dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.flags import OneLineParser, add_flags, check_choices, check_range, flag, from_namespace, word


@dataclass(frozen=True)
class Base:
    """Shared flags."""

    rate: float = flag(0.5, "a rate", choices=None)
    kind: str = flag("a", "a kind", choices=("a", "b"))

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "rate", low=0, high=1, high_open=True)


@dataclass(frozen=True)
class One(Base):
    """Adds a switch and a number."""

    no_thing: bool = flag(False, "leave the thing out")
    size: int | None = flag(None, "a size")


@dataclass(frozen=True)
class Two(Base):
    """Adds a two-way switch."""

    other: bool = flag(True, "the other")


@dataclass(frozen=True)
class Clash:
    """Declares `rate` anew."""

    rate: float = flag(0.1, "another rate")


def parser_of(*configs: type) -> OneLineParser:
    parser = OneLineParser(prog="x")
    for config in configs:
        add_flags(parser, "some", config)
    return parser


def test_round_trip() -> None:
    parser = parser_of(One, Two)
    namespace = parser.parse_args(["--rate", "0.25", "--kind", "b", "--no_thing", "--size", "3", "--no-other"])
    assert from_namespace(One, namespace) == One(rate=0.25, kind="b", no_thing=True, size=3)
    assert from_namespace(Two, namespace) == Two(rate=0.25, kind="b", other=False)
    assert from_namespace(One, parser.parse_args([])) == One()


def test_a_flag_declared_twice_apart_is_our_fault() -> None:
    with pytest.raises(AssertionError, match="declared twice"):
        parser_of(One, Clash)


@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0, float("nan"), float("inf")])
def test_ranges(value: float) -> None:
    with pytest.raises(InputError, match="--rate .* at least 0 and below 1"):
        Base(rate=value)


def test_choices_list_the_known_names() -> None:
    with pytest.raises(InputError, match="--kind 'c' is unknown; known: a, b"):
        Base(kind="c")
    with pytest.raises(InputError, match=r"--kind 'A' is unknown; did you mean a\? known: a, b"):
        Base(kind="A")


def test_faults_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    long = "9" * 400
    for argv in (["--rate", "x"], ["--unknown"], ["--rat", "1"], ["@missing.args"], [""], [long], [f"@{long}"]):
        with pytest.raises(SystemExit) as stop:
            parser_of(One).parse_args(argv)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1


@dataclass(frozen=True)
class Paths:
    """A file, a folder, a share and a name."""

    file: str | None = flag(None, "a file", metavar="FILE")
    folder: str = flag("out", "a folder", metavar="DIR")
    share: float = flag(0.5, "a share", metavar="RATIO")
    name: str = flag("x", "a name")
    source: str | None = word("a file", optional=True, metavar="FILE")


def test_the_home_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell expands `~` in a word of its own, but not in --file=~/x, and nobody does in an argument file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "some.args").write_text("--folder ~/b\n", encoding="utf-8")
    found = parser_of(Paths).parse_args(["~/c", "--file=~/a", "@~/some.args", "--name", "~/d", "--share", "1"])
    expected = Paths(f"{tmp_path}/a", f"{tmp_path}/b", 1.0, "~/d", f"{tmp_path}/c")
    assert from_namespace(Paths, found) == expected
    text = parser_of(Paths).format_help()
    assert all(part in text for part in ("--file FILE", "--folder DIR", "--share RATIO", "--name STR"))


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["--rat", "1"], "; did you mean --rate? ("),
        (["-rate", "1"], "; did you mean --rate? ("),
        (["--no-thing"], "; did you mean --no_thing? ("),
        (["--quite_another"], "--quite_another (--help"),
        (["recipes/some.args"], "recipes/some.args; did you mean @recipes/some.args, the flags in that file? ("),
    ],
)
def test_what_was_perhaps_meant(
    argv: list[str], hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["x", *argv])
    with pytest.raises(SystemExit) as stop:
        parser_of(One, Two).parse_args()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and hint in error and error.count("\n") == 1


def test_contradictions_on_the_command_line_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same again is none, nor is a flag that overrides a file's."""
    (tmp_path / "some.args").write_text("--rate 0.1 --no-other", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["x", f"@{tmp_path}/some.args", "--rate", "0.2", "--other", "--rate=0.2"])
    found = parser_of(Two).parse_args()
    assert (found.rate, found.other) == (0.2, True) and not capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["x", "--rate", "0.1", "--other", "--rate=0.2", "--no-other"])
    found = parser_of(Two).parse_args()
    assert (found.rate, found.other) == (0.2, False)
    assert capsys.readouterr().err.splitlines() == [
        "warning: --rate 0.1 and --rate 0.2 are both given; the later one counts",
        "warning: --other and --no-other are both given; the later one counts",
    ]


@dataclass(frozen=True)
class Words:
    """Two words and a flag."""

    action: str = word("what to do", choices=("look", "make"))
    file: str | None = word("a file", optional=True)
    number: int = flag(1, "a number")


def test_words_are_told_by_their_place() -> None:
    parser = parser_of(Words)
    for argv, expected in (
        (["look"], Words("look")),
        (["make", "x.npy"], Words("make", "x.npy")),
        (["look", "--number", "2", "x.npy"], Words("look", "x.npy", 2)),
    ):
        assert from_namespace(Words, parser.parse_args(argv)) == expected


@pytest.mark.parametrize("argv", [[], ["x.npy"], ["look", "a", "b"]])
def test_words_that_are_missing_or_unknown(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parser_of(Words).parse_args(argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
