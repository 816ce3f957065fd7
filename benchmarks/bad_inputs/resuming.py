"""Bad inputs of issue 5, nothing lost: what cannot be gone on with, what cannot repeat, two writers of one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from benchmarks.bad_inputs.case import Case, Workshop
from runtime.device import CUBLAS_WORKSPACE
from training.config import parse_args
from training.data import open_data
from training.reports import described
from training.saved_state import NAMES, SavedState

ISSUE = "5. nothing lost"
HOLD = """
import sys
from pathlib import Path
from runtime.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def _folder(w: Workshop) -> Path:
    """Make the folder of a run as it is after an interruption, less what training would need."""
    folder = w.output / "tiny_precomp_mgcs_VSE_0.2_s0"
    folder.mkdir(parents=True)
    return folder


def _finished(flag: str) -> Callable[[Workshop], list[object]]:
    def prepare(w: Workshop) -> list[object]:
        folder = _folder(w)
        (folder / "results.json").write_text("{}", encoding="utf-8")
        return [*w.flags(flag, *([str(folder)] if flag == "--saved_model" else []))]

    return prepare


def _no_run(w: Workshop) -> list[object]:
    return [*w.flags("--saved_model", str(w.root))]


def _torn(w: Workshop) -> list[object]:
    folder = _folder(w)
    for name in NAMES:
        (folder / name).write_bytes(b"half of a state")
    return [*w.flags("--resume")]


def _of_another_margin(w: Workshop) -> list[object]:
    config = parse_args(w.flags())
    settings = described(config, open_data(config.data, config.noise, config.matcher))
    settings["method"]["margin"] = 0.3
    SavedState(_folder(w)).save({"config": settings})
    return [*w.flags("--resume")]


def _held(w: Workshop) -> list[object]:
    """Let another process hold the folder until the command has been refused."""
    folder = _folder(w)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    w.open_for(holder)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return [*w.flags("--resume")]


def _other_workspace(w: Workshop) -> list[object]:
    w.open_for(mock.patch.dict(os.environ, {CUBLAS_WORKSPACE: ":0:0"}))
    return [*w.flags("--deterministic")]


def _run(wrong: str, prepare: Callable[[Workshop], list[object]], told: str) -> Case:
    return Case(ISSUE, wrong, "run.py", prepare, told)


CASES = [
    _run("--resume of a finished run", _finished("--resume"), "--resume: the run in .* is finished; without"),
    _run("--saved_model with a finished run's folder", _finished("--saved_model"), "is finished; to start a new one"),
    _run("--saved_model with a folder that is no run's", _no_run, "without a run's saved state; name the folder of"),
    _run("both saved states torn", _torn, "holds no whole state to resume from; start the run again"),
    _run("--resume with other settings", _of_another_margin, "other settings: margin 0.3 -> 0.2; give the same"),
    _run("a folder that another process writes into", _held, "is being written by process .*; wait for it, or end it"),
    _run(
        "--deterministic with what measures",
        lambda w: [*w.flags("--deterministic", "--precision", "auto")],
        "--deterministic: --precision auto measures.* give fp32 or bf16",
    ),
    _run("--deterministic with another cuBLAS workspace", _other_workspace, "':0:0'; unset it, or make it"),
]
