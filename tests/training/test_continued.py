"""`--saved_model FOLDER` goes on with the run in that folder, wherever it lies, under the rules of `--resume`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import run
from runtime.errors import InputError
from tests.soak.victims import differences, outcome
from tests.tiny import tiny_flags
from tests.training.test_resume import interrupted_at
from training.config import parse_args

SHORT = ("--dropout", "0.4", "--num_epochs", "1", "--log_step", "3")


def flags(root: Path, output: Path, *extra: str) -> list[str]:
    return tiny_flags(root, output, *SHORT, *extra)


def interrupted(root: Path, output: Path, monkeypatch: pytest.MonkeyPatch, *extra: str) -> Path:
    """Start a run, interrupt it; return its folder."""
    with monkeypatch.context() as patch:
        interrupted_at(patch, 7)
        with pytest.raises(SystemExit) as stop:
            run.main(flags(root, output, *extra))
    assert stop.value.code == 130
    (folder,) = output.iterdir()
    (folder / "lock").unlink()  # as if this process, which holds it, had ended
    return folder


@pytest.mark.parametrize("start", [None, "--saved_model", "--warmup_model_path"])
def test_the_run_goes_on_in_its_folder(
    start: str | None, tiny_root: Path, checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = () if start is None else (start, str(checkpoint_path))
    run.main(flags(tiny_root, tmp_path / "whole", *given))
    (whole,) = (tmp_path / "whole").iterdir()
    folder = interrupted(tiny_root, tmp_path / "output", monkeypatch, *given)
    moved = tmp_path / "moved here"
    shutil.move(folder, moved)
    again = given if start == "--warmup_model_path" else ()
    run.main(flags(tiny_root, tmp_path / "output", *again, "--saved_model", str(moved)))
    assert not list((tmp_path / "output").iterdir()), "nothing is written elsewhere"
    assert not differences(outcome(whole), outcome(moved))


def test_the_rules_are_those_of_resume(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(tiny_root, tmp_path / "output", monkeypatch)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="other settings: margin 0.2 -> 0.3"):
        run.train(parse_args(flags(tiny_root, tmp_path, "--saved_model", str(folder), "--margin", "0.3")))
    assert before.items() <= {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}.items()


def test_a_finished_run_says_what_to_name(tiny_root: Path, tmp_path: Path, trained_folder: Path) -> None:
    with pytest.raises(InputError, match="that run is finished.*checkpoint_dev_best.pth.tar"):
        run.train(parse_args(flags(tiny_root, tmp_path, "--saved_model", str(trained_folder))))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without a run's saved state; name the folder of an interrupted run, or a"):
        run.train(parse_args(flags(tiny_root, tmp_path, "--saved_model", str(tiny_root))))


def test_a_folder_that_another_process_began_is_left_alone(tiny_root: Path, tmp_path: Path) -> None:
    """A run that has saved nothing yet holds its folder: who resumes there is refused, and deletes nothing."""
    command = flags(tiny_root, tmp_path, "--resume")
    place = run.choose_folder(parse_args(command))
    assert place.is_new and not place.is_resumed
    (place.folder / "metrics.jsonl").write_text("another's", encoding="utf-8")
    again = run.choose_folder(parse_args(command))
    assert (again.folder, again.is_new, again.is_resumed) == (place.folder, False, False)
    with pytest.raises(InputError, match="does not fit|no checkpoint"):
        run.train(parse_args([*command, "--saved_model", str(tmp_path / "missing.pth.tar")]))
    assert (place.folder / "metrics.jsonl").read_text(encoding="utf-8") == "another's"
