"""A bad input: what is wrong, the command that meets it, and what that is to do about it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

import evaluation
import run
from data_utils import check, convert, extract
from tests.tiny import make_tiny_data, tiny_flags
from tools.clip_tuning import __main__ as clip_train
from tools.filter import __main__ as clean

try:
    from PIL import Image
except ImportError:  # an optional extra; cases with pictures are left out
    Image = None  # type: ignore[assignment]

COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "run.py": run.main,
    "evaluation.py": evaluation.main,
    "data_utils.check": check.main,
    "data_utils.convert": convert.main,
    "data_utils.extract": extract.main,
    "tools.filter": clean.main,
    "tools.clip_tuning": clip_train.main,
}
REFUSED, FAULT_FOUND, ACCEPTED = 2, 1, 0
"""Exit codes: one line on stderr; the report of data_utils.check names a fault; it works, and may warn."""
NAME = "tiny_precomp"
SPLITS = ("train", "dev", "test")


class Workshop:
    """Folders of one case, made when they are asked for.

    Args:
        folder: of its own.
        shared: of all cases.
        open_for: keeps a context open while the command runs.
    """

    def __init__(self, folder: Path, shared: Path, open_for: Callable[[AbstractContextManager], object]) -> None:
        self.folder, self.shared, self.open_for = folder, shared, open_for
        self.output = folder / "output"

    @cached_property
    def root(self) -> Path:
        """Small data of its own, to be broken."""
        return make_tiny_data(self.folder / "own", images={"train": 10, "dev": 4, "test": 5})

    @cached_property
    def data(self) -> Path:
        """Its folder."""
        return self.root / "data" / NAME

    def flags(self, *extra: str) -> list[str]:
        """Return run.py's arguments for a small network on that data."""
        return tiny_flags(self.root, self.output, "--warmup_epoch", "0", "--num_epochs", "1", *extra)

    @property
    def places(self) -> list[str]:
        """Return the flags that say where that data is."""
        return [
            *("--data_path", str(self.root / "data"), "--vocab_path", str(self.root / "vocab")),
            *("--data_name", NAME),
        ]

    @property
    def checkpoint(self) -> Path:
        """A checkpoint of two small networks, which cases only read or copy."""
        output = self.shared / "trained"
        if not output.exists():
            root = make_tiny_data(self.shared / "sound", images={"train": 10, "dev": 4, "test": 5})
            with contextlib.redirect_stdout(io.StringIO()):
                run.main(tiny_flags(root, output, "--warmup_epoch", "0", "--num_epochs", "1"))
        return next(output.iterdir()) / "checkpoint_dev_best.pth.tar"


def save_pictures(folder: Path, count: int) -> list[str]:
    """Write small pictures; return their file names."""
    random = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(count)]
    for name in names:
        Image.fromarray(random.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / name)
    return names


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        issue: the list it is on.
        wrong: what is wrong, in words.
        command: which of `COMMANDS` meets it.
        prepare: makes it; returns the command's arguments.
        told: pattern of the line that is to be printed.
        code: exit code that is wanted.
        needs: packages without which it cannot be tried.
    """

    issue: str
    wrong: str
    command: str
    prepare: Callable[[Workshop], Sequence[object]]
    told: str
    code: int = REFUSED
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Return the packages that it needs and that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


@dataclass(frozen=True)
class Finding:
    """What a command did: its exit code (None: an exception of ours got out), its line, and what is wrong with that."""

    case: Case
    code: int | None
    line: str
    problems: tuple[str, ...]


def found(case: Case, folder: Path, shared: Path) -> Finding:
    """Try a case in a folder of its own, which is removed."""
    folder.mkdir()
    out, err = io.StringIO(), io.StringIO()
    code: int | None = 0
    with contextlib.ExitStack() as during:
        arguments = [str(a) for a in case.prepare(Workshop(folder, shared, during.enter_context))]
        during.enter_context(contextlib.redirect_stdout(out))
        during.enter_context(contextlib.redirect_stderr(err))
        try:
            COMMANDS[case.command](arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            code = None
            traceback.print_exc(file=err)
    shutil.rmtree(folder)
    said = err.getvalue() if case.code == REFUSED else out.getvalue()
    lines = [line for line in said.splitlines() if line.strip()]
    told = [line for line in lines if re.search(case.told, line)]
    problems = []
    if code != case.code:
        problems.append(f"exit code {code} instead of {case.code}")
    if "Traceback" in out.getvalue() + err.getvalue():
        problems.append("a traceback")
    if case.code == REFUSED and (len(lines) != 1 or not said.startswith("error: ")):
        problems.append(f"{len(lines)} lines instead of one that begins with error:")
    if not told:
        problems.append(f"no line that tells: {case.told}")
    line = (told or lines or [""])[-1].replace(str(folder), "DIR").replace(str(shared), "DIR")
    line = re.sub(r"\bprocess \d+", "process N", line)
    return Finding(case, code, line, tuple(problems))
