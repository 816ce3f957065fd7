"""A run that is interrupted anywhere and resumed is the run that was not: weights, logs, results, bit by bit."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import run
from runtime.errors import InputError, Stopped
from runtime.log import EVENTS
from runtime.torch_file import read_torch_file
from tests.soak import differences, outcome
from tests.tiny import tiny_flags
from training.checkpointing import DIGEST, MAGIC, STATES, SavedState, choose_folder, claim
from training.config import parse_args
from training.schedule import Running
from training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--dropout", "0.4", "--num_epochs", "2", "--warmup_epoch", "1", "--batch_size", "64", "--log_step", "3")
SHORT += ("--warmup_type", "warmup", "--lr_rule", "ncr", "--fit_type", "gmm")
KINDS = {
    "mgcs, SGR": ("--module_name", "SGR", "--noisy_start", "0.5", "--drift_neighbours", "bank"),
    "bicro, SAF": ("--method", "bicro", "--module_name", "SAF", "--noisy_start", "0.5"),
    "dsdmr": ("--method", "dsdmr", "--min_separation", "0", "--refit_every", "2"),
    "consensus": ("--method", "consensus", "--noise_ratio", "0.5", "--warmup_epoch", "2"),
    "ncr, consensus": ("--method", "ncr", "--signal", "consensus", "--loss", "bounded", "--noise_ratio", "0.5"),
    "co-teaching": ("--warmup_type", "co_teaching", "--warmup_epoch", "2", "--method", "ncr"),
}


def flags(root: Path, output: Path, *extra: str) -> list[str]:
    return tiny_flags(root, output, *SHORT, *extra)


def start(root: Path, output: Path, *extra: str) -> Trainer:
    """Return a trainer that has a folder of its own, new or resumed."""
    config = parse_args(flags(root, output, *extra))
    place = choose_folder(config)
    data = run.open_data(config.data, config.noise, config.matcher)
    return Trainer(place.config, data, place.folder, resume=place.is_resumed)


def whole(root: Path, output: Path, *extra: str) -> Path:
    """Do a run; return its folder."""
    trainer = start(root, output, *extra)
    trainer.train()
    return trainer.folder


def interrupted_at(monkeypatch: pytest.MonkeyPatch, number: int) -> itertools.count[int]:
    """Ask for the end when the `number`-th pause is asked about; return what counts these questions."""
    asked = itertools.count(1)

    def pause_is_due(self: Running) -> bool:
        if next(asked) == number:
            self.interruption.requested = signal.SIGINT
        return self.interruption.requested is not None

    monkeypatch.setattr(Running, "pause_is_due", pause_is_due)
    return asked


def interrupted(monkeypatch: pytest.MonkeyPatch, number: int, root: Path, output: Path, *extra: str) -> Path:
    """Do a run up to its `number`-th pause; return its folder."""
    with monkeypatch.context() as patch:
        interrupted_at(patch, number)
        trainer = start(root, output, *extra)
        with pytest.raises(Stopped):
            trainer.train()
    trainer.files.lock.release()
    trainer.log.close()
    return trainer.folder


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_anywhere_it_is_the_same_run(
    kind: str, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        asked = interrupted_at(patch, 10**6)
        alone = outcome(whole(tiny_root, tmp_path / "whole", *KINDS[kind]))
    for number in random.Random(kind).sample(range(1, next(asked)), 3):
        output = tmp_path / f"at {number}"
        folder = interrupted(monkeypatch, number, tiny_root, output, *KINDS[kind])
        start(tiny_root, output, *KINDS[kind], "--resume").train()
        assert not differences(outcome(folder), alone), f"interrupted at {number}"
        assert len(list((folder / EVENTS).iterdir())) <= 2


def test_saving_at_every_step_changes_nothing(tiny_root: Path, tmp_path: Path) -> None:
    often, seldom = (whole(tiny_root, tmp_path / minutes, "--save_minutes", minutes) for minutes in ("0", "1000"))
    assert outcome(often) == outcome(seldom)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(number: signal.Signals, code: int, tiny_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "run.py", *tiny_flags(tiny_root, tmp_path, "--num_epochs", "5000")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(number)
    said = process.stderr.read()
    assert process.wait(60) == code
    assert "--resume" in said and "Traceback" not in said
    (folder,) = tmp_path.iterdir()
    content, remarks = SavedState(folder).load()
    assert content["stage"] >= 2 and not remarks


# -- damaged states, a full disk ------------------------------------------------------------------------------------


def test_a_torn_state_gives_way_to_the_one_before(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = outcome(whole(tiny_root, tmp_path / "whole"))
    folder = interrupted(monkeypatch, 9, tiny_root, tmp_path / "torn")
    files = {path: path.read_bytes() for path in (folder / name for name in STATES)}
    latest = max(files, key=lambda path: generation(files[path]))
    latest.write_bytes(files[latest][: len(files[latest]) // 2])
    start(tiny_root, tmp_path / "torn", "--resume").train()
    assert outcome(folder) == alone
    assert f"warning: {latest} is damaged; the state before it is used" in capsys.readouterr().out


def generation(state: bytes) -> int:
    return int(read_torch_file(state[len(MAGIC) + DIGEST :])["generation"])


def test_without_a_whole_state_nothing_is_resumed(tmp_path: Path) -> None:
    state = SavedState(tmp_path)
    for number in range(3):
        state.save({"number": torch.tensor(number)})
    assert int(SavedState(tmp_path).load()[0]["number"]) == 2
    flipped = bytearray((tmp_path / STATES[1]).read_bytes())
    flipped[-1] ^= 1
    (tmp_path / STATES[1]).write_bytes(flipped)
    content, remarks = SavedState(tmp_path).load()
    assert int(content["number"]) == 1 and len(remarks) == 1 and "damaged" in remarks[0]
    (tmp_path / STATES[0]).write_bytes(b"")
    with pytest.raises(InputError, match="no whole state"):
        SavedState(tmp_path).load()


def test_a_full_disk_costs_nothing(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every third write fails: the run warns, goes on and ends as it would have."""
    mgcs = ("--drift_correction", "division", "--drift_neighbours", "bank", "--drift_own")
    alone = outcome(whole(tiny_root, tmp_path / "whole", *mgcs))
    real, count = os.fsync, itertools.count(1)

    def failing(descriptor: int) -> None:
        if next(count) % 3 == 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    trainer = start(tiny_root, tmp_path / "full", *mgcs, "--save_minutes", "0")
    try:
        trainer.train()
    except InputError:  # the very last write may fail; what is there is resumed
        trainer.files.lock.release()
        monkeypatch.undo()
        start(tiny_root, tmp_path / "full", *mgcs, "--save_minutes", "0", "--resume").train()
    said = capsys.readouterr().out
    assert "No space left on device" in said and "training goes on" in said
    assert outcome(trainer.folder) == alone


def test_a_disk_that_is_full_to_the_end_still_shows_the_results(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole(tiny_root, tmp_path / "whole")
    table = re.compile(r"^test, networks of .*?^mean .*?$", re.DOTALL | re.MULTILINE)
    (expected,) = table.findall(capsys.readouterr().out)
    trainer = start(tiny_root, tmp_path / "full")
    real, written = os.fsync, itertools.count()

    def full_after_the_settings(descriptor: int) -> None:
        if next(written):
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_the_settings)
        with pytest.raises(InputError, match=r"checkpoint_dev_best.* cannot be written .* results above are not saved"):
            trainer.train()
    assert table.findall(capsys.readouterr().out) == [expected] and not list(trainer.folder.glob("*.pth.tar"))


# -- which run is gone on with --------------------------------------------------------------------------------------


def test_no_run_is_overwritten(tmp_path: Path) -> None:
    assert [claim(tmp_path / "new", "run").name for _ in range(3)] == ["run", "run-2", "run-3"]
    (tmp_path / "file").write_text("")
    for parent, name in ((tmp_path / "file", "run"), (tmp_path, "file")):
        with pytest.raises(InputError, match="--output_dir .* cannot be written"):
            claim(parent, name)


def test_what_cannot_be_resumed(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(monkeypatch, 2, tiny_root, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for how in (["--resume"], ["--saved_model", str(folder)]):
        with pytest.raises(InputError, match="other settings: margin 0.2 -> 0.3"):
            start(tiny_root, tmp_path, "--margin", "0.3", *how)
        (folder / "lock").unlink(missing_ok=True)  # as if this process, which holds it, had ended
    assert before.items() <= {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}.items()
    config = parse_args(flags(tiny_root, tmp_path, "--resume"))
    data = run.open_data(config.data, config.noise, config.matcher)
    index = data.train.image_of_pair.copy()
    index[[0, 20]] = index[[20, 0]]
    data.train.set_images(index)
    with pytest.raises(InputError, match="paired otherwise"):
        Trainer(config, data, folder, resume=True)
    (folder / "lock").unlink(missing_ok=True)
    start(tiny_root, tmp_path, "--resume", "--save_minutes", "1").train()
    (folder / "state-1").write_bytes(b"left over when the run was killed after its results")
    with pytest.raises(InputError, match="is finished"):
        start(tiny_root, tmp_path, "--resume")
    assert not (folder / "state-1").exists()
    with pytest.raises(InputError, match="that run is finished.*checkpoint_dev_best.pth.tar"):
        start(tiny_root, tmp_path, "--saved_model", str(folder))
    with pytest.raises(InputError, match="without a run's saved state; name the folder of an interrupted run, or a"):
        start(tiny_root, tmp_path, "--saved_model", str(tiny_root))


def test_resume_without_a_run_starts_one_and_says_so(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing error in --id must not be a new run in silence; a folder that another process began is left alone."""
    interrupted(monkeypatch, 2, tiny_root, tmp_path, "--id", "wide")
    command = flags(tiny_root, tmp_path, "--id", "wird", "--resume")
    place = choose_folder(parse_args(command))
    name = "tiny_precomp_mgcs_VSE_0.2_s0"
    assert place.is_new and not place.is_resumed and place.folder.name == f"{name}_wird"
    (remark,) = place.remarks
    assert remark.startswith(f"--resume: no interrupted run {name}_wird in {tmp_path}; a new one starts")
    assert f"interrupted there: {name}_wide (--id" in remark
    (place.folder / "notes").write_text("another's", encoding="utf-8")
    with pytest.raises(InputError, match="no checkpoint"):
        run.train(parse_args([*command, "--saved_model", str(tmp_path / "missing.pth.tar")]))
    assert (place.folder / "notes").read_text(encoding="utf-8") == "another's"
    (place.folder / "lock").unlink(missing_ok=True)
    run.main(command)  # nothing was saved in there
    said = capsys.readouterr().out
    assert f"--resume: {place.folder} holds no saved state to go on from; the run starts over" in said


def test_the_interrupted_run_goes_on_though_a_later_one_is_finished(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = interrupted(monkeypatch, 2, tiny_root, tmp_path)
    assert whole(tiny_root, tmp_path) != first
    assert whole(tiny_root, tmp_path, "--resume") == first
    with pytest.raises(InputError, match=f"{first}-2 is finished"):
        start(tiny_root, tmp_path, "--resume")


@pytest.mark.parametrize("given", [None, "--saved_model", "--warmup_model_path"])
def test_a_folder_as_saved_model_goes_on_wherever_it_lies(
    given: str | None, tiny_root: Path, checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = () if given is None else (given, str(checkpoint_path))
    alone = outcome(whole(tiny_root, tmp_path / "whole", *begun))
    folder = interrupted(monkeypatch, 7, tiny_root, tmp_path / "output", *begun)
    moved = tmp_path / "moved here"
    shutil.move(folder, moved)
    again = begun if given == "--warmup_model_path" else ()
    run.main(flags(tiny_root, tmp_path / "output", *again, "--saved_model", str(moved)))
    assert not list((tmp_path / "output").iterdir()), "nothing is written elsewhere"
    assert not differences(alone, outcome(moved))


def test_one_run_a_folder(tiny_root: Path, tmp_path: Path) -> None:
    """A folder is refused while another process writes into it, and free once that is dead."""
    trainer = start(tiny_root, tmp_path)
    trainer.running.save()
    command = [sys.executable, "run.py", *flags(tiny_root, tmp_path, "--resume")]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and f"process {os.getpid()}" in refused.stderr
    trainer.files.lock.release()
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).returncode == 0


# -- losses that are not finite -------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["VSE", "SGR", "SAF"])
@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_loss_that_is_not_finite_leaves_no_trace(
    on_nan: str,
    module: str,
    tiny_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Running statistics are as before, though the forward pass updates them before anyone knows of the NaN."""
    trainer = start(tiny_root, tmp_path, "--on_nan", on_nan, "--method", "baseline", "--module_name", module)
    matcher = trainer.networks[0].matcher
    original, calls = matcher.embed, itertools.count(1)

    def broken(batch: Any) -> Any:
        if next(calls) == 3:
            batch.regions.mul_(float("inf"))
        return original(batch)

    monkeypatch.setattr(matcher, "embed", broken)
    if on_nan == "stop":
        with pytest.raises(InputError, match=r"loss of network A is nan at batch 3 of warm-up 1 A.*--on_nan skip"):
            trainer.train()
        snapshot = torch.load(trainer.folder / "not_finite.pth.tar", weights_only=True)
        assert snapshot["batch"] == 3 and len(snapshot["pairs"]) == 64
        weights = snapshot["networks"][0]["weights"]
    else:
        trainer.warm_up(0)
        assert "loss of network A is nan at batch 3 of warm-up 1 A; the step is skipped" in capsys.readouterr().out
        records = [json.loads(line) for line in (trainer.folder / "metrics.jsonl").read_text().splitlines()]
        assert records and all(r["loss/A"] == r["loss/A"] for r in records if "loss/A" in r)
        weights = matcher.state_dict()
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())


def test_a_collapsed_network_is_told(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = start(tiny_root, tmp_path)
    with torch.no_grad():
        for parameter in trainer.networks[1].matcher.parameters():
            parameter.zero_()
    trainer.evaluate(trainer.data.dev)
    said = capsys.readouterr().out
    assert "network B gives every pair the same score" in said and "network A" not in said
