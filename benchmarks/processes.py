"""One process against several: the losses side by side, and the seconds of a step, at published sizes.

    python -m benchmarks.processes --count 2 --module_name SGR

One process has as many threads as there are processes otherwise, each with one: both use the same processors. The data
are random. Each side warms up for an epoch (mean of the negatives) and trains for one (hardest negatives); the first
step of each is not counted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.similarity import SIMILARITIES
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_choices, check_range, flag, from_namespace
from runtime.log import METRICS, table
from vocab.vocabulary import SPECIAL, Vocabulary

REPOSITORY = Path(__file__).resolve().parent.parent
NAME = "random_precomp"
LOOK = 0.01
"""Seconds between looks at what a run has recorded."""


@dataclass(frozen=True)
class ProcessesConfig:
    """Flags of this benchmark."""

    count: int = flag(2, "processes of the second side, and threads of the first")
    module_name: str = flag("SGR", "similarity", choices=SIMILARITIES)
    steps: int = flag(4, "steps of each kind and network")
    batch_size: int = flag(128, "pairs a step")
    embed_size: int = flag(1024, "dimensions of the joint space")
    sim_dim: int = flag(256, "dimensions of a similarity vector")

    def __post_init__(self) -> None:
        check_choices(self)
        for name, low in (("count", 2), ("steps", 2), ("batch_size", 2), ("embed_size", 1), ("sim_dim", 1)):
            check_range(self, name, low=low)


def make_data(root: Path, images: int) -> None:
    """Write random regions (36 x 2048) and captions of 6 to 18 words, five an image."""
    random = np.random.default_rng(0)
    folder = root / NAME
    folder.mkdir(parents=True)
    words = [f"w{k}" for k in range(8000)]
    for split, count in (("train", images), ("dev", 4), ("test", 4)):
        np.save(folder / f"{split}_ims.npy", random.standard_normal((count, 36, 2048), dtype=np.float32))
        lines = [" ".join(random.choice(words, random.integers(6, 19))) for _ in range(5 * count)]
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Vocabulary([*SPECIAL, *words]).save(root / f"{NAME}_vocab.json")


def run(root: Path, config: ProcessesConfig, output: Path, launcher: Sequence[str], threads: int) -> list[Any]:
    """Train, and return the records of the losses, with the seconds of each step.

    Raises:
        InputError: the run failed; carries its last line.
    """
    command = [
        *(sys.executable, *launcher, str(REPOSITORY / "run.py"), "--data_name", NAME, "--data_path", str(root)),
        *("--vocab_path", str(root), "--output_dir", str(output), "--gpu", "cpu", "--method", "baseline"),
        *("--warmup_epoch", "1", "--num_epochs", "1", "--no_co_training", "--log_step", "1", "--token_cache", "off"),
        *("--module_name", config.module_name, "--batch_size", str(config.batch_size)),
        *("--embed_size", str(config.embed_size), "--sim_dim", str(config.sim_dim)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(root / "errors.txt", "w+", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        found = list(_as_they_come(process, output))
        if process.wait():
            errors.seek(0)
            lines = [line.strip() for line in errors if "error" in line.lower()] or ["no message"]
            raise InputError(f"run.py failed: {lines[-1]}")
    return found


def _as_they_come(process: subprocess.Popen[bytes], output: Path) -> Iterator[dict[str, Any]]:
    """Yield the losses that a run records, with the seconds since the one before."""
    read, before, is_alive = 0, time.perf_counter(), True
    while is_alive:
        is_alive = process.poll() is None
        for metrics in output.glob(f"*/{METRICS}"):
            lines = metrics.read_text(encoding="utf-8").splitlines()
            now = time.perf_counter()
            for record in map(json.loads, lines[read:]):
                if record["event"] == "loss":
                    yield {**record, "seconds": now - before}
                before = now
            read = len(lines)
        time.sleep(LOOK)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Train on both sides and print the tables."""
    parser = OneLineParser(prog="python -m benchmarks.processes", description="One process against several.")
    add_flags(parser, "benchmark", ProcessesConfig)
    config = from_namespace(ProcessesConfig, parser.parse_args(argv))
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(config.count)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_data(root, -(-config.steps * config.batch_size // 5))
        one = run(root, config, root / "one", [], config.count)
        several = run(root, config, root / "several", torchrun, 1)
    rows, ratios = [], []
    for first, second in zip(one, several, strict=True):
        kind = "hardest" if first["epoch"] else "mean"
        rows.append([f"{first['step']} ({kind})", *(f"{r['loss/A']:.7f}" for r in (first, second))])
        rows[-1] += [f"{r['seconds']:.2f}" for r in (first, second)]
        ratios.append((kind, first["seconds"] / second["seconds"]))
    print(table(["step", "loss, 1 process", f"loss, {config.count}", "seconds, 1", f"seconds, {config.count}"], rows))
    for kind in ("mean", "hardest"):
        own = [ratio for name, ratio in ratios if name == kind][1:]
        print(f"{kind}: {statistics.median(own):.2f} times as fast (median of {len(own)} steps)")


if __name__ == "__main__":
    main()
