"""Several processes train what one trains: the same losses, the same networks, the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import run
from runtime.checkpoint import load_checkpoint
from runtime.distributed import Share
from runtime.errors import InputError
from runtime.log import METRICS
from tests.tiny import tiny_flags
from training.config import parse_args

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("--learning_rate", "0.0005", "--log_step", "1", "--num_epochs", "1")
RUNS = {
    "SGR": ("--module_name", "SGR", "--method", "mgcs", "--drift_neighbours", "bank", "--noisy_start", "0"),
    "SAF": ("--module_name", "SAF", "--method", "bicro", "--noisy_start", "0", "--batch_size", "18"),
    "VSE": ("--module_name", "VSE", "--method", "ncr", "--noisy_start", "0", "--warmup_type", "co_teaching"),
    "GPO": ("--module_name", "GPO", "--method", "dsdmr", "--accumulate", "2", "--num_epochs", "4"),
}
WITHOUT_EFFECT = ("embedding_global.0.bias", "embedding_common.0.bias", "attn_sim_w.bias", "running_mean")
"""Biases in front of a batch norm or a softmax change nothing; Adam moves them by the rounding of a zero gradient. A
batch norm's running mean follows them."""


def torchrun(folder: Path, *runs: dict[str, Any], count: int = 2) -> subprocess.CompletedProcess[str]:
    """Do runs in `count` processes."""
    (folder / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(ROOT / "tests/training/processes.py"), str(folder / "runs.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def records(output: Path) -> list[dict[str, Any]]:
    """Return what a run has recorded."""
    (folder,) = output.iterdir()
    return [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]


def losses(output: Path) -> list[tuple[str, int, float]]:
    """Return a run's losses, one a step, with network and step."""
    found = [r for r in records(output) if r["event"] == "loss"]
    name = {id(r): next(key for key in r if key.startswith("loss/")) for r in found}
    return [(r["network"], r["step"], r[name[id(r)]]) for r in found]


def assert_same(one: Path, other: Path) -> None:
    """Two runs have the same losses to 1e-5 and the same networks to 1e-4."""
    expected, given = losses(one), losses(other)
    assert [e[:2] for e in given] == [e[:2] for e in expected] and len(expected) >= 20
    assert max(abs(a[2] - b[2]) for a, b in zip(expected, given, strict=True)) < 1e-5
    for name in ("checkpoint_warmup.pth.tar", "checkpoint_dev_best.pth.tar"):
        (first,), (second,) = (list(folder.glob(f"*/{name}")) for folder in (one, other))
        for a, b in zip(load_checkpoint(first)["networks"], load_checkpoint(second)["networks"], strict=True):
            for key in a:
                if not key.endswith(WITHOUT_EFFECT):
                    torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


def test_two_processes_train_what_one_trains(tiny_root: Path, tmp_path: Path) -> None:
    """With dropout, batch norms, shares that do not come out even, labels from the peer, and parts of a batch."""
    flags = {name: [*SETTINGS, *extra] for name, extra in RUNS.items()}
    done = torchrun(tmp_path, *({"flags": tiny_flags(tiny_root, tmp_path / f"2 {n}", *f)} for n, f in flags.items()))
    assert done.returncode == 0, done.stderr
    for name, own in flags.items():
        run.main(tiny_flags(tiny_root, tmp_path / f"1 {name}", *own))
        assert_same(tmp_path / f"1 {name}", tmp_path / f"2 {name}")
        assert done.stdout.count(f"written to {tmp_path / f'2 {name}'}") == 1, "one speaks for all"


def test_a_run_goes_on_in_another_number_of_processes(tiny_root: Path, tmp_path: Path) -> None:
    """Interrupted in two, by a signal that one of them got; gone on with in one, and the other way round."""
    own = [*SETTINGS, "--method", "ncr"]
    run.main(tiny_flags(tiny_root, tmp_path / "whole", *own))
    flags = tiny_flags(tiny_root, tmp_path / "from 2", *own)
    done = torchrun(tmp_path, {"flags": flags, "stop_at": 9})
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "from 2").iterdir()
    assert not (folder / "results.json").exists() and (folder / "state-0").exists()
    run.main([*flags, "--resume"])
    assert_same(tmp_path / "whole", tmp_path / "from 2")


def test_one_process_dies(tiny_root: Path, tmp_path: Path) -> None:
    """The others end too, and the folder can be gone on with."""
    flags = tiny_flags(tiny_root, tmp_path / "out", *SETTINGS, "--method", "baseline")
    done = torchrun(tmp_path, {"flags": flags, "die_at": 5})
    assert done.returncode != 0 and "Traceback (most recent call last):\n  File" in done.stderr  # torchrun's own
    assert "training/trainer.py" not in done.stderr, "none of ours"
    run.main([*flags, "--resume"])
    assert len(losses(tmp_path / "out")) >= 20


def test_what_all_processes_refuse_is_said_once(tiny_root: Path, tmp_path: Path) -> None:
    flags = tiny_flags(tiny_root, tmp_path / "out", "--batch_size", "17")
    done = torchrun(tmp_path, {"flags": flags})
    assert done.returncode != 0 and not (tmp_path / "out").exists()
    said = "error: --batch_size 17 does not divide among 2 processes; the nearest that does is 16"
    assert done.stderr.count("error: --batch_size") == 1 and said in done.stderr


@pytest.mark.parametrize(
    ("flags", "count", "said"),
    [
        (["--batch_size", "128"], 3, "the nearest that does is 129"),
        (["--batch_size", "2"], 8, "the nearest that does is 8"),
        (["--batch_size", "9", "--accumulate", "3"], 6, "the nearest that does is 8"),
    ],
)
def test_what_processes_cannot_share(flags: list[str], count: int, said: str) -> None:
    config = parse_args(flags)
    config.check_processes(1)
    with pytest.raises(InputError, match=said):
        config.check_processes(count)


def test_shares_cover_a_batch() -> None:
    """Each pair is in one share, whatever the numbers; the last ones may be empty."""
    for total in range(1, 20):
        for count in range(1, 7):
            rows = [Share(rank, count, total).rows for rank in range(count)]
            assert [k for own in rows for k in range(total)[own]] == list(range(total))
            assert {own.stop - own.start for own in rows} <= set(range(Share(0, count, total).size + 1))


@pytest.mark.parametrize("module", ["SGR", "VSE"])
def test_accumulated_batches_are_one_large_batch(tiny_root: Path, tmp_path: Path, module: str) -> None:
    own = [*SETTINGS, "--module_name", module, "--noisy_start", "0", "--num_epochs", "2"]
    own += ["--drift_neighbours", "bank"]  # in a batch rows of one image tie, and rounding would choose among them
    run.main(tiny_flags(tiny_root, tmp_path / "large", *own, "--batch_size", "24"))
    run.main(tiny_flags(tiny_root, tmp_path / "parts", *own, "--batch_size", "8", "--accumulate", "3"))
    assert_same(tmp_path / "large", tmp_path / "parts")
