"""Sweeps: every run once, failures told and not contagious, interruptions resumed, the table in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import tiny_flags
from tools import sweep

ROOT = Path(__file__).resolve().parents[2]

STAND_IN = """
import json, signal, sys, time
from pathlib import Path
argv = sys.argv[1:]
output, seed, recipe = Path(argv[argv.index("--output_dir") + 1]), argv[argv.index("--seed") + 1], Path(argv[0][1:])
folder = output / "run"
with open(output.parent.parent / "calls", "a") as calls:
    calls.write(f"{recipe.stem} {seed}\\n")
if recipe.stem == "bad":
    print("error: no such thing", file=sys.stderr)
    sys.exit(2)
folder.mkdir(exist_ok=True)
asked = []
signal.signal(signal.SIGINT, lambda *_: asked.append(1))
(folder / "begun").touch()
for _ in range(300 if recipe.stem == "slow" and not (folder / "state").exists() else 1):
    time.sleep(0.02)
    if asked:
        (folder / "state").touch()
        sys.exit(130)
recall = {"R@1": 10.0, "R@5": 20.0, "R@10": 30.0, "median_rank": 3.0, "mean_rank": 5.0}
record = {"i2t": recall, "t2i": recall, "rSum": 120.0}
(folder / "results.json").write_text(json.dumps(RESULTS | {"seed": int(seed), "test": {"mean": record}}))
print("written")
"""


@pytest.fixture
def recipes(tmp_path: Path, tiny_root: Path) -> dict[str, str]:
    """Recipe files of tiny runs, by name."""
    words = tiny_flags(tiny_root, tmp_path)
    place = words.index("--output_dir")
    del words[place : place + 2]
    names = ("good", "other", "bad", "slow")
    for name in names:
        (tmp_path / f"{name}.args").write_text("\n".join(words), encoding="utf-8")
    return {name: str(tmp_path / f"{name}.args") for name in names}


@pytest.fixture
def stand_in(tmp_path: Path, trained_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a quick program stand in for run.py; its results are those of a real run, with other recalls."""
    results = json.loads((trained_folder / "results.json").read_text(encoding="utf-8"))
    program = tmp_path / "stand_in.py"
    program.write_text(f"RESULTS = {results!r}\n{STAND_IN}", encoding="utf-8")
    monkeypatch.setattr(sweep, "PROGRAM", [sys.executable, str(program)])
    return [sys.executable, str(program)]


def swept(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Sweep; return the exit code and what was printed."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        sweep.main(argv)
    out, err = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, out + err


def calls(output: Path) -> list[str]:
    return sorted((output / "calls").read_text(encoding="utf-8").splitlines())


def test_every_run_once_and_a_table(
    recipes: dict[str, str], stand_in: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = [recipes["good"], recipes["other"], "--seeds", "1,2,1", "--output_dir", str(output), "--jobs", "3"]
    code, said = swept(capsys, *command, "--published", "none")
    assert code == 0 and "4 runs, 0 finished; 3 at a time" in said
    assert calls(output) == ["good 1", "good 2", "other 1", "other 2"]
    assert "| mgcs | VSE |" in said and "| 120.0" in said and "1, 2" in said
    code, said = swept(capsys, *command, "--published", "none")
    assert code == 0 and "4 runs, 4 finished; 0 at a time" in said and len(calls(output)) == 4
    code, said = swept(capsys, *command[:-2], "--published", "none", "--seeds", "3", "--output", str(tmp_path / "t.md"))
    assert code == 0 and len(calls(output)) == 6 and "120.0" in (tmp_path / "t.md").read_text(encoding="utf-8")


def test_a_failing_run_stops_no_other(
    recipes: dict[str, str], stand_in: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = [recipes["bad"], recipes["good"], "--seeds", "1,2", "--output_dir", str(output), "--jobs", "1"]
    code, said = swept(capsys, *command)
    assert code == 1 and calls(output) == ["bad 1", "bad 2", "good 1", "good 2"]
    assert said.splitlines()[-2:] == [f"FAILED bad, seed {k}, exit code 2: error: no such thing" for k in (1, 2)]
    assert "120.0" in said
    swept(capsys, *command)
    assert calls(output).count("bad 1") == 2 and calls(output).count("good 1") == 1, "what failed is tried again"


def test_an_interrupted_sweep_goes_on(
    recipes: dict[str, str], stand_in: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    argv = [recipes["slow"], recipes["good"], "--seeds", "1,2", "--output_dir", str(output), "--jobs", "1"]
    code = f"from tools import sweep; sweep.PROGRAM = {stand_in!r}; sweep.main({argv!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (output / "slow" / "seed_1" / "run" / "begun").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "interrupted, and saved; to go on, give the same command\n"
    assert (output / "slow" / "seed_1" / "run" / "state").exists() and calls(output) == ["slow 1"]
    (output / "slow" / "seed_2" / "run").mkdir()
    (output / "slow" / "seed_2" / "run" / "state").touch()  # or it would take its time
    code, said = swept(capsys, *argv)
    assert code == 0 and calls(output) == ["good 1", "good 2", "slow 1", "slow 1", "slow 2"]


def test_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(sweep, "_free_bytes", lambda: 10.0 * sweep.GIBI)
    assert sweep.how_many_fit(sweep.SweepConfig()) == 3
    assert sweep.how_many_fit(sweep.SweepConfig(run_gib=1.0)) == 8
    assert sweep.how_many_fit(sweep.SweepConfig(run_gib=1.0, threads=3)) == 2
    assert sweep.how_many_fit(sweep.SweepConfig(run_gib=100.0)) == 1
    assert sweep.how_many_fit(sweep.SweepConfig(jobs=20)) == 20


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "RECIPES"),
        (["nowhere.args"], "nowhere.args is not a file"),
        (["GOOD", "GOOD"], "the same name twice"),
        (["GOOD", "--seeds", "1,x"], "--seeds 1,x must be whole numbers"),
        (["GOOD", "--seeds", "-1"], "--seeds"),
        (["GOOD", "--jobs", "-1"], "--jobs -1 is out of range"),
        (["GOOD", "--", "--seed", "3"], "--seed belongs to the sweep"),
        (["GOOD", "--", "--output_dir=x"], "--output_dir=x belongs to the sweep"),
        (["GOOD", "--", "--method", "nonsense"], "--method 'nonsense' is unknown"),
        (["GOOD", "--output_dir", "GOOD/below"], "good.args/below/good/seed_0 cannot be made"),
    ],
)
def test_wrong_flags_start_nothing(
    argv: list[str], told: str, recipes: dict[str, str], stand_in: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = swept(capsys, *[word.replace("GOOD", recipes["good"]) for word in argv])
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1 and told in said


def test_other_flags_want_another_folder(
    recipes: dict[str, str], stand_in: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [recipes["good"], "--output_dir", str(tmp_path / "out")]
    swept(capsys, *command)
    code, said = swept(capsys, *command, "--", "--margin", "0.3", "--workers", "1")
    assert code == 2 and "other settings: margin 0.2 -> 0.3; name another --output_dir" in said
    (tmp_path / "out" / "good" / "seed_0" / "settings.json").write_text("[", encoding="utf-8")
    assert "is damaged; remove" in swept(capsys, *command)[1]


def test_real_runs(recipes: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [recipes["good"], "--seeds", "1", "--output_dir", str(tmp_path / "out"), "--", "--num_epochs", "1"]
    code, said = swept(capsys, *command)
    assert code == 0, said
    (results,) = (tmp_path / "out" / "good" / "seed_1").glob("*/results.json")
    assert json.loads(results.read_text(encoding="utf-8"))["seed"] == 1
    assert "written to" in said and "| mgcs | VSE |" in said
