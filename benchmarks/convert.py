"""How much memory does a conversion take, how long, and do the values stay what they were?

    python -m benchmarks.convert [--gigabytes 4] [--tsv_images 1000] [--folder DIR] [--json FILE]

Writes an npy of 36 x 2048 float32 (sparse: one row in 16 holds numbers, spread over 16 powers of two), converts it to
HDF5 in float16 and back to an npy in float32, and a bottom-up-attention TSV to HDF5 in float16; each by
`data_utils.convert` in a process of its own. Memory is the process's resident set as Linux counts it: VmRSS when
everything is imported and VmHWM at the end. All files are removed again.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import check_target
from data_utils.regions import RegionFile
from runtime.checkpoint import write_json
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from runtime.log import table

REPOSITORY = Path(__file__).resolve().parent.parent
REGIONS, DIMS = 36, 2048
EVERY = 16
"""One row in so many of the npy is not zero."""

FLOAT16_ERROR = 2.0**-11
"""Largest relative error of rounding a normal number to float16."""

BLOCK = 64
CHILD = """
import json, sys
from pathlib import Path
from data_utils import convert
def mib(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) / 1024
before = mib("VmRSS")
convert.main(sys.argv[1:])
print(json.dumps({"imported_mib": before, "peak_mib": mib("VmHWM")}))
"""


@dataclass(frozen=True)
class ConvertBenchmark:
    """Flags of this benchmark."""

    gigabytes: float = flag(4.0, "size of the npy in GB (10^9 bytes)")
    tsv_images: int = flag(1000, "images of the TSV, 0.39 MB each")
    folder: str | None = flag(
        None, "where the files are made and removed again (default: the system's temporary folder)", metavar="DIR"
    )
    json: str | None = flag(None, "write the numbers to this JSON file", metavar="FILE")

    def __post_init__(self) -> None:
        check_range(self, "gigabytes", low=0.001)
        check_range(self, "tsv_images", low=1)
        check_target(self.json)
        if self.folder is not None and not Path(self.folder).is_dir():
            raise InputError(f"--folder {self.folder} is not a folder; name one that exists")


@dataclass(frozen=True)
class Conversion:
    """One conversion, measured.

    Attributes:
        name: from what to what.
        gigabytes: size of the input.
        seconds: from starting the process to its end.
        imported_mib: resident memory before anything is read.
        beyond_mib: how much the peak lies above that.
        max_error: largest relative error of a number against the input's, of all rows that are not zero.
    """

    name: str
    gigabytes: float
    seconds: float
    imported_mib: float
    beyond_mib: float
    max_error: float


def numbers(rows: int, seed: int) -> np.ndarray:
    """Return (rows, REGIONS, DIMS) float32, all normal in float16, of both signs."""
    random = np.random.default_rng(seed)
    values = random.uniform(1, 2, (rows, REGIONS, DIMS)) * 2.0 ** random.integers(-8, 8, (rows, REGIONS, DIMS))
    return (values * random.choice([-1.0, 1.0], values.shape)).astype(np.float32)


def make_npy(path: Path, rows: int) -> None:
    """Write the sparse npy; its row `EVERY * k` is `numbers(1, k)`."""
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, REGIONS, DIMS)}
        np.lib.format.write_array_header_1_0(file, header)
        start, row_bytes = file.tell(), 4 * REGIONS * DIMS
        file.truncate(start + rows * row_bytes)
        for row in range(0, rows, EVERY):
            file.seek(start + row * row_bytes)
            file.write(numbers(1, row // EVERY).tobytes())


def make_tsv(path: Path, images: int) -> None:
    """Write a TSV; image k is `numbers(1, k)`."""
    boxes = base64.b64encode(np.zeros((REGIONS, 4), np.float32).tobytes())
    with open(path, "wb") as file:
        for image in range(images):
            features = base64.b64encode(numbers(1, image).tobytes())
            file.write(b"\t".join([b"%d" % image, b"640", b"480", b"%d" % REGIONS, boxes, features]) + b"\n")


def measured(name: str, source: Path, target: Path, dtype: str, every: int) -> Conversion:
    """Convert, and compare every row of the result with what it must be.

    Args:
        every: row `every * k` is `numbers(1, k)`, all others are zero.

    Raises:
        InputError: the conversion failed; carries its last line.
    """
    command = [sys.executable, "-c", CHILD, "--input", str(source), "--output", str(target), "--dtype", dtype]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise InputError(f"{name} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    memory = json.loads(done.stdout.splitlines()[-1])
    return Conversion(
        name=name,
        gigabytes=source.stat().st_size / 1e9,
        seconds=seconds,
        imported_mib=memory["imported_mib"],
        beyond_mib=memory["peak_mib"] - memory["imported_mib"],
        max_error=largest_error(RegionFile(target), every),
    )


def largest_error(written: RegionFile, every: int) -> float:
    """Return the largest relative error of the rows `every * k`; infinity if another row is not zero."""
    error = 0.0
    for start in range(0, written.shape[0], BLOCK):
        rows = np.arange(start, min(start + BLOCK, written.shape[0]))
        for row, found in zip(rows.tolist(), written.read(rows), strict=True):
            if row % every:
                error = max(error, np.inf if found.any() else 0.0)
            else:
                expected = numbers(1, row // every)[0]
                error = max(error, float((np.abs(found - expected) / np.abs(expected)).max()))
    return error


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Make the files, convert them, print what it took."""
    parser = OneLineParser(prog="python -m benchmarks.convert", description="Memory, time and error of conversions.")
    add_flags(parser, "benchmark", ConvertBenchmark)
    config = from_namespace(ConvertBenchmark, parser.parse_args(argv))
    if not os.path.isdir("/proc/self"):
        raise InputError("this benchmark reads a process's memory from /proc, which only Linux has")
    rows = max(1, round(config.gigabytes * 1e9 / (4 * REGIONS * DIMS)))
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        plain, half, back, tsv = (Path(name) / n for n in ("in.npy", "half.h5", "back.npy", "in.tsv"))
        make_npy(plain, rows)
        found = [measured("npy -> HDF5 float16", plain, half, "float16", EVERY)]
        found.append(measured("HDF5 float16 -> npy float32", half, back, "float32", EVERY))
        back.unlink()
        make_tsv(tsv, config.tsv_images)
        found.append(measured("TSV -> HDF5 float16", tsv, Path(name) / "tsv.h5", "float16", 1))
    header = ["", "GB in", "s", "MiB when imported", "MiB beyond", "largest relative error"]
    cells = [
        [c.name, f"{c.gigabytes:.2f}", c.seconds, c.imported_mib, c.beyond_mib, f"{c.max_error:.2e}"] for c in found
    ]
    print(table(header, cells))
    agrees = all(c.max_error <= FLOAT16_ERROR for c in found)
    print(f"values agree to float16 (2^-11 = {FLOAT16_ERROR:.2e}): {'yes' if agrees else 'NO'}")
    if config.json is not None:
        write_json(Path(config.json), [asdict(c) for c in found])


if __name__ == "__main__":
    main()
