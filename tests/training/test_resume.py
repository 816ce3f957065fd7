"""A run that is interrupted anywhere and resumed is the run that was not: weights, logs, results, bit by bit."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import run
from runtime import files
from runtime.errors import InputError, Interruption, Stopped
from runtime.log import EVENTS
from tests.soak.victims import outcome
from tests.tiny import tiny_flags
from training import pause
from training.config import parse_args
from training.folders import choose_folder
from training.running import Running
from training.saved_state import MAGIC, NAMES, SavedState
from training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--dropout", "0.4", "--num_epochs", "2", "--warmup_epoch", "1", "--batch_size", "64", "--log_step", "3")
SHORT += ("--warmup_type", "warmup", "--lr_rule", "ncr", "--fit_type", "gmm")
KINDS = {
    "mgcs, SGR": ("--module_name", "SGR", "--noisy_start", "0.5", "--drift_neighbours", "bank"),
    "bicro, SAF": ("--method", "bicro", "--module_name", "SAF", "--noisy_start", "0.5", "--length_window", "2"),
    "dsdmr": ("--method", "dsdmr", "--filter_pool", "cumulative", "--min_separation", "0", "--refit_every", "2"),
    "consensus": ("--method", "consensus", "--noise_ratio", "0.5", "--warmup_epoch", "2", "--mask_matches"),
    "ncr, consensus": ("--method", "ncr", "--signal", "consensus", "--loss", "bounded", "--noise_ratio", "0.5"),
    "co-teaching": ("--warmup_type", "co_teaching", "--warmup_epoch", "2", "--method", "ncr"),
    "side by side": ("--side_by_side", "--noisy_start", "1"),
}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set torch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def start(root: Path, output: Path, *flags: str) -> Trainer:
    """Return a trainer that has a folder of its own, new or resumed."""
    config = parse_args(tiny_flags(root, output, *SHORT, *flags))
    place = choose_folder(config)
    data = run.open_data(config.data, config.noise, config.matcher)
    return Trainer(place.config, data, place.folder, resume=place.is_resumed)


class Asked:
    """How often a run has asked whether a pause is due: forks count on from their parent, and it from the furthest."""

    def __init__(self) -> None:
        self.furthest = multiprocessing.Value("i", 0)
        self.home, self.count = os.getpid(), 0

    def once_more(self) -> int:
        self.count = 1 + (self.furthest.value if os.getpid() == self.home else self.count)
        with self.furthest.get_lock():
            self.furthest.value = max(self.furthest.value, self.count)
        return self.count


def interrupted_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Asked:
    """Ask for the end when the `number`-th pause is asked about, in this process or any fork."""
    asked, check = Asked(), Running.check_interruption

    def is_due(self: pause.Pauses) -> bool:
        if asked.once_more() == number:
            self._interruption.requested = signal.SIGINT
        return self._interruption.requested is not None

    def check_interruption(self: Running) -> None:
        if asked.furthest.value >= number:  # in a fork, perhaps
            self.interruption.requested = signal.SIGINT
        check(self)

    monkeypatch.setattr(pause.Pauses, "is_due", is_due)
    monkeypatch.setattr(Running, "check_interruption", check_interruption)
    return asked


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_anywhere_it_is_the_same_run(
    kind: str, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    threads(2 if kind == "side by side" else 1)
    with monkeypatch.context() as patch:
        asked = interrupted_at(patch, 10**6)
        start(tiny_root, tmp_path / "whole", *KINDS[kind]).train()
    (whole,) = (tmp_path / "whole").iterdir()
    for number in random.Random(kind).sample(range(1, asked.furthest.value + 1), 4):
        output = tmp_path / f"at {number}"
        with monkeypatch.context() as patch:
            interrupted_at(patch, number)
            trainer = start(tiny_root, output, *KINDS[kind])
            with pytest.raises(Stopped):
                trainer.train()
        trainer.files.release()
        start(tiny_root, output, *KINDS[kind], "--resume").train()
        (folder,) = output.iterdir()
        found, expected = (outcome(of, by_network=kind == "side by side") for of in (folder, whole))
        assert found == expected, f"interrupted at {number}"
        assert len(list((folder / EVENTS).iterdir())) <= 2


def test_saving_at_every_step_changes_nothing(tiny_root: Path, tmp_path: Path) -> None:
    for name, minutes in (("often", "0"), ("seldom", "1000")):
        start(tiny_root, tmp_path / name, "--save_minutes", minutes).train()
    (often,), (seldom,) = (tmp_path / "often").iterdir(), (tmp_path / "seldom").iterdir()
    assert outcome(often) == outcome(seldom)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("flags", [(), ("--side_by_side",)])
def test_signals_save_and_say_how_to_go_on(
    number: signal.Signals, code: int, flags: tuple[str, ...], tiny_root: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "run.py", *tiny_flags(tiny_root, tmp_path, "--num_epochs", "5000", *flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
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
    assert content["position"]["stage"] >= 2 and not remarks


def test_torn_states(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torn latest file gives way to the one before; with both torn the run says so."""
    start(tiny_root, tmp_path / "whole").train()
    (whole,) = (tmp_path / "whole").iterdir()
    interrupted_at(monkeypatch, 9)
    trainer = start(tiny_root, tmp_path / "torn")
    with pytest.raises(Stopped):
        trainer.train()
    trainer.files.release()
    monkeypatch.undo()
    files = [trainer.folder / name for name in NAMES]
    assert all(path.exists() for path in files)
    latest = max(files, key=lambda path: torch.load(_payload(path), weights_only=True)["generation"])
    data = latest.read_bytes()
    latest.write_bytes(data[: len(data) // 2])
    resumed = start(tiny_root, tmp_path / "torn", "--resume")
    resumed.train()
    assert outcome(trainer.folder) == outcome(whole)


def _payload(path: Path) -> Any:
    file = open(path, "rb")
    file.seek(len(MAGIC) + 32)
    return file


def test_both_states_torn(tmp_path: Path) -> None:
    state = SavedState(tmp_path)
    for number in range(3):
        state.save({"number": torch.tensor(number)})
    content, remarks = SavedState(tmp_path).load()
    assert int(content["number"]) == 2 and not remarks
    flipped = bytearray((tmp_path / NAMES[1]).read_bytes())
    flipped[-1] ^= 1
    (tmp_path / NAMES[1]).write_bytes(flipped)
    content, remarks = SavedState(tmp_path).load()
    assert int(content["number"]) == 1 and len(remarks) == 1 and "damaged" in remarks[0]
    (tmp_path / NAMES[0]).write_bytes(b"")
    with pytest.raises(InputError, match="no whole state"):
        SavedState(tmp_path).load()


def test_a_full_disk_costs_nothing(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every third write fails: the run warns, goes on and ends as it would have."""
    mgcs = ("--drift_correction", "division", "--drift_neighbours", "bank", "--drift_own")
    start(tiny_root, tmp_path / "whole", *mgcs).train()
    (whole,) = (tmp_path / "whole").iterdir()
    real, count = os.fsync, itertools.count(1)

    def failing(descriptor: int) -> None:
        if next(count) % 3 == 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", failing)
    with monkeypatch.context():
        trainer = start(tiny_root, tmp_path / "full", *mgcs, "--save_minutes", "0")
        try:
            trainer.train()
        except InputError:  # the very last write may fail; what is there is resumed
            trainer.files.release()
            monkeypatch.undo()
            start(tiny_root, tmp_path / "full", *mgcs, "--save_minutes", "0", "--resume").train()
    said = capsys.readouterr().out
    assert "No space left on device" in said and "training goes on" in said
    assert outcome(trainer.folder) == outcome(whole)


def test_a_disk_that_is_full_to_the_end_still_shows_the_results(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tiny_root, tmp_path / "whole").train()
    table = re.compile(r"^test, networks of .*?^mean .*?$", re.DOTALL | re.MULTILINE)
    (whole,) = table.findall(capsys.readouterr().out)
    trainer = start(tiny_root, tmp_path / "full")
    real, written = os.fsync, itertools.count()

    def full_after_the_settings(descriptor: int) -> None:
        if next(written):
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full_after_the_settings)
        with pytest.raises(InputError, match=r"checkpoint_dev_best.* cannot be written .* results above are not saved"):
            trainer.train()
    assert table.findall(capsys.readouterr().out) == [whole] and not list(trainer.folder.glob("*.pth.tar"))


def test_what_cannot_be_resumed(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_at(monkeypatch, 2)
    trainer = start(tiny_root, tmp_path)
    with pytest.raises(Stopped):
        trainer.train()
    with pytest.raises(InputError, match="other settings: margin 0.2 -> 0.3"):
        start(tiny_root, tmp_path, "--margin", "0.3", "--resume")
    with pytest.raises(InputError, match="paired otherwise"):
        index = trainer.data.train.image_of_pair.copy()
        index[[0, 20]] = index[[20, 0]]
        trainer.data.train.set_images(index)
        Trainer(
            parse_args(tiny_flags(tiny_root, tmp_path, *SHORT, "--resume")), trainer.data, trainer.folder, resume=True
        )
    monkeypatch.undo()
    start(tiny_root, tmp_path, "--resume", "--save_minutes", "1").train()
    with pytest.raises(InputError, match="is finished"):
        start(tiny_root, tmp_path, "--resume")


def test_a_run_killed_after_its_results_is_finished(tiny_root: Path, tmp_path: Path) -> None:
    """What it could not remove any more is removed when it is asked to go on."""
    start(tiny_root, tmp_path).train()
    (folder,) = tmp_path.iterdir()
    (folder / "state-1").write_bytes(b"left over")
    with pytest.raises(InputError, match="is finished"):
        start(tiny_root, tmp_path, "--resume")
    assert not (folder / "state-1").exists()


def test_resume_without_a_run_starts_one_and_says_so(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing error in --id must not be a new run in silence."""
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2)
        trainer = start(tiny_root, tmp_path, "--id", "wide")
        with pytest.raises(Stopped):
            trainer.train()
    trainer.files.release()
    place = choose_folder(parse_args(tiny_flags(tiny_root, tmp_path, *SHORT, "--id", "wird", "--resume")))
    name = "tiny_precomp_mgcs_VSE_0.2_s0"
    assert place.is_new and not place.is_resumed and place.folder.name == f"{name}_wird"
    (remark,) = place.remarks
    assert remark.startswith(f"--resume: no interrupted run {name}_wird in {tmp_path}; a new one starts")
    assert f"interrupted there: {name}_wide (--id" in remark
    run.main(tiny_flags(tiny_root, tmp_path, *SHORT, "--id", "wird", "--resume"))  # nothing was saved in there
    assert (
        f"--resume: {place.folder} holds no saved state to go on from; the run starts over" in capsys.readouterr().out
    )


def test_the_interrupted_run_goes_on_though_a_later_one_is_finished(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2)
        first = start(tiny_root, tmp_path)
        with pytest.raises(Stopped):
            first.train()
    first.files.release()
    start(tiny_root, tmp_path).train()
    again = start(tiny_root, tmp_path, "--resume")
    assert again.folder == first.folder
    again.train()
    with pytest.raises(InputError, match=f"{first.folder}-2 is finished"):
        start(tiny_root, tmp_path, "--resume")


def test_one_run_a_folder(tiny_root: Path, tmp_path: Path) -> None:
    """A folder is refused while another process writes into it, and free once that is dead."""
    trainer = start(tiny_root, tmp_path)
    trainer.save_state()
    command = [sys.executable, "run.py", *tiny_flags(tiny_root, tmp_path, *SHORT, "--resume")]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and f"process {os.getpid()}" in refused.stderr
    trainer.files.release()
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).returncode == 0


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_loss_that_is_not_finite(
    on_nan: str, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = start(tiny_root, tmp_path, "--on_nan", on_nan, "--method", "baseline")
    method = trainer.networks[0].method
    original, calls = method.per_pair_loss, itertools.count(1)

    def broken(*values: Any, **named: Any) -> Any:
        losses = original(*values, **named)
        return losses * float("nan") if next(calls) == 3 else losses

    monkeypatch.setattr(method, "per_pair_loss", broken)
    if on_nan == "stop":
        with pytest.raises(InputError, match=r"loss of network A is nan at batch 3 of warm-up 1 A.*--on_nan skip"):
            trainer.train()
        snapshot = torch.load(trainer.folder / "not_finite.pth.tar", weights_only=True)
        assert snapshot["batch"] == 3 and len(snapshot["pairs"]) == 64
        weights = snapshot["networks"][0]["weights"]
        assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())
    else:
        trainer.train()
        assert "loss of network A is nan at batch 3 of warm-up 1 A; the step is skipped" in capsys.readouterr().out
        records = [json.loads(line) for line in (trainer.folder / "metrics.jsonl").read_text().splitlines()]
        assert all(r["loss/A"] == r["loss/A"] for r in records if "loss/A" in r)


def test_a_collapsed_network_is_told(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = start(tiny_root, tmp_path)
    with torch.no_grad():
        for parameter in trainer.networks[1].matcher.parameters():
            parameter.zero_()
    trainer.evaluate(trainer.data.dev)
    said = capsys.readouterr().out
    assert "network B gives every pair the same score" in said and "network A" not in said


def test_an_interruption_is_told_to_workers_that_come_later() -> None:
    interruption = Interruption()
    with interruption.caught():
        child = os.fork()
        if not child:
            while interruption.requested is None:
                time.sleep(0.01)
            os._exit(7)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert interruption.requested == signal.SIGTERM
        with interruption.passed_on(child):
            _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    with pytest.raises(Stopped) as stopped:
        interruption.check()
    assert stopped.value.exit_code == 143
