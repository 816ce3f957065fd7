"""How soon is the first batch trained, and how much memory does it take, on a file much larger than memory?

    python -m benchmarks.large_file [--json FILE] [--steps N] [--folder DIR] [flags of run.py]

Writes a training split of 113,287 images of 36 x 2048 float32 (33 GB to every reader; the file is sparse, so the disk
holds only the rows that are not zero) with 566,435 captions, small dev and test splits, and a vocabulary; starts run.py
on it with published sizes twice, with an empty token cache and with the one the first start left; ends each process
after so many steps. Memory is the process's resident set as Linux counts it (VmRSS, VmHWM).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.data_loading import CAPTIONS_PER_IMAGE, DIMS, REGIONS, made_up_captions, made_up_vocabulary
from benchmarks.measure import check_target
from runtime.checkpoint import write_json
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from runtime.log import table

REPOSITORY = Path(__file__).resolve().parent.parent
NAME = "large"
NUM_IMAGES = {"train": 113_287, "dev": 64, "test": 64}
EVERY = 16
"""One row in so many of the large file is not zero in its first page (4 KiB); all small splits' rows are full."""

PUBLISHED = (
    "--module_name SGR --embed_size 1024 --sim_dim 256 --batch_size 128 --noise_ratio 0.2 --log_step 1 --method mgcs "
    "--warmup_type warmup --fit_type gmm --drift_correction division --drift_neighbours bank --drift_own"
)
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class LargeFileConfig:
    """Flags of this benchmark."""

    steps: int = flag(5, "steps to watch, at the first start; at the second start one")
    folder: str | None = flag(
        None, "where the files are made and removed again (default: the system's temporary folder)", metavar="DIR"
    )
    json: str | None = flag(None, "write the numbers to this JSON file", metavar="FILE")

    def __post_init__(self) -> None:
        check_range(self, "steps", low=1)
        check_target(self.json)
        if self.folder is not None and not Path(self.folder).is_dir():
            raise InputError(f"--folder {self.folder} is not a folder; name one that exists")


@dataclass(frozen=True)
class Start:
    """One start of run.py.

    Attributes:
        name: which start.
        ready_s: seconds from starting the process until everything is open and training begins (config.json is there).
        first_loss_s: seconds from starting the process to the first record of a loss.
        steps: steps watched.
        seconds_a_step: mean time between records of the loss; 0 if only one step was watched.
        peak_mib: VmHWM when the last step was recorded.
        resident_mib: largest VmRSS that was seen.
    """

    name: str
    ready_s: float
    first_loss_s: float
    steps: int
    seconds_a_step: float
    peak_mib: float
    resident_mib: float


def make_large_data(root: Path) -> None:
    """Write `<root>/data/large/` and `<root>/vocab/large_vocab.json`."""
    folder = root / "data" / NAME
    folder.mkdir(parents=True)
    (root / "vocab").mkdir()
    vocabulary = made_up_vocabulary()
    vocabulary.save(root / "vocab" / f"{NAME}_vocab.json")
    random = np.random.default_rng(0)
    for seed, (split, count) in enumerate(NUM_IMAGES.items()):
        captions = made_up_captions(count * CAPTIONS_PER_IMAGE, vocabulary, seed)
        (folder / f"{split}_caps.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
        with open(folder / f"{split}_ims.npy", "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, REGIONS, DIMS)}
            np.lib.format.write_array_header_1_0(file, header)
            start, row_bytes = file.tell(), 4 * REGIONS * DIMS
            file.truncate(start + count * row_bytes)
            every, values = (EVERY, min(1024, REGIONS * DIMS)) if split == "train" else (1, REGIONS * DIMS)
            for row in range(0, count, every):
                file.seek(start + row * row_bytes)
                file.write(random.random(values, dtype=np.float32).tobytes())


def watch(name: str, root: Path, steps: int, arguments: Sequence[str]) -> Start:
    """Start run.py, look at it until `steps` losses are recorded, end it.

    Raises:
        InputError: it ended by itself; carries its last line.
    """
    output = root / name.replace(" ", "_")
    command = [sys.executable, str(REPOSITORY / "run.py"), "--data_name", NAME, "--data_path", str(root / "data")]
    command += ["--vocab_path", str(root / "vocab"), "--token_cache", str(root / "cache"), "--output_dir", str(output)]
    command += [*PUBLISHED.split(), *arguments]
    with tempfile.TemporaryFile(dir=root) as errors:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        ready, resident, losses, times = 0.0, 0.0, 0, []
        try:
            while losses < steps:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                if process.poll() is not None:
                    errors.seek(0)
                    last = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
                    raise InputError(f"run.py ended by itself with code {process.returncode}: {last[-1]}")
                status = Path(f"/proc/{process.pid}/status").read_text()
                resident = max(resident, _mib(status, "VmRSS"))
                if not ready and any(output.glob("*/config.json")):
                    ready = time.monotonic() - started
                records = sum((path.read_text().count('"event": "loss"') for path in output.glob("*/metrics.jsonl")), 0)
                times += [time.monotonic() - started] * (records - losses)
                losses = records
            peak = _mib(status, "VmHWM")
        finally:
            process.terminate()
            process.wait()
    pace = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    return Start(name, ready, times[0], len(times), pace, peak, resident)


def _mib(status: str, field: str) -> float:
    """Return a field of /proc/PID/status in MiB; 0 while the process has no memory of its own yet."""
    return int(status.split(f"{field}:")[1].split()[0]) / 1024 if f"{field}:" in status else 0.0


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Make the files, start twice, print both starts."""
    parser = OneLineParser(prog="python -m benchmarks.large_file", description="Training on a file of 33 GB.")
    add_flags(parser, "benchmark", LargeFileConfig)
    namespace, arguments = parser.parse_known_args(argv)
    config = from_namespace(LargeFileConfig, namespace)
    if not os.path.isdir("/proc/self"):
        raise InputError("this benchmark reads a process's memory from /proc, which only Linux has")
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        root = Path(name)
        make_large_data(root)
        size = (root / "data" / NAME / "train_ims.npy").stat()
        print(f"train_ims.npy: {size.st_size / 1e9:.1f} GB, {512 * size.st_blocks / 1e9:.2f} GB of them on disk")
        starts = [watch("first start", root, config.steps, arguments), watch("second start", root, 1, arguments)]
    header = ["", "ready s", "first loss s", "steps", "s a step", "peak MiB", "resident MiB"]
    print(table(header, [list(asdict(start).values()) for start in starts]))
    if config.json is not None:
        write_json(Path(config.json), [asdict(start) for start in starts])


if __name__ == "__main__":
    main()
