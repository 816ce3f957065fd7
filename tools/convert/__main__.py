"""Convert region features: npy, HDF5 and bottom-up-attention TSV to npy or HDF5.

    python -m tools.convert --input train_ims.npy --output train_ims.h5 --dtype float16
    python -m tools.convert --input trainval_36.tsv --output train_ims.h5 --ids train_ids.txt

Files are told by their suffix: .npy, .h5 (dataset `features`, a chunk an image), .tsv. A block of rows is read and
written at a time. The output is written as OUTPUT.part, with how far it is in OUTPUT.part.json, and gets its name when
it is whole; after an interruption the same command goes on where it was. The ids of a TSV's rows are written beside the
output, as OUTPUT less its suffix, plus .ids.txt. Only an npy in Fortran order, which no release is, is read through a
memory map, of which the system keeps resident what it has room for.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_utils.regions import RegionFile
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import check_choices, flag, require
from runtime.log import Progress
from tools.command import parsed
from tools.convert.bottom_up import BottomUpFile, read_ids
from tools.convert.conversion import WRITERS, Plan, Source, convert

INPUTS = (".npy", ".h5", ".hdf5", ".tsv")

SHOWN = 10
"""So many broken lines are named."""


@dataclass(frozen=True)
class ConvertConfig:
    """Flags of the converter."""

    input: str | None = flag(
        None, "features to read: .npy, .h5, or a bottom-up-attention .tsv (required)", metavar="FILE"
    )
    output: str | None = flag(None, "file to write: .npy or .h5; it must not exist (required)", metavar="FILE")
    dtype: str | None = flag(
        None, "numbers written (default: float16 where the input has it, else float32)", choices=("float16", "float32")
    )
    ids: str | None = flag(
        None, "write the rows of a .tsv in the order of this file's image ids (default: as they come)", metavar="FILE"
    )

    def __post_init__(self) -> None:
        require(self, "input", "name the features to read")
        require(self, "output", "name the file to write, .npy or .h5")
        if self.dtype is not None:
            check_choices(self)
        source, target = Path(self.input or ""), Path(self.output or "")
        if source.suffix not in INPUTS:
            raise InputError(f"--input {source} has the suffix {source.suffix!r}; known: {', '.join(INPUTS)}")
        if target.suffix not in WRITERS:
            raise InputError(f"--output {target} has the suffix {target.suffix!r}; known: {', '.join(WRITERS)}")
        if not source.is_file():
            raise InputError(f"--input {source} is not there")
        if target.exists():
            raise InputError(f"--output {target} exists; nothing is written over: delete it or name another file")
        if not target.parent.is_dir():
            raise InputError(f"--output {target}: its folder does not exist; make it")
        if self.ids is not None and source.suffix != ".tsv":
            raise InputError(f"--ids orders the rows of a .tsv; leave it out for {source}")


def make_plan(config: ConvertConfig) -> Plan:
    """Open the input and say what is to be done.

    Raises:
        InputError: the input is not what its suffix says, or ids are not in it.
    """
    path, target = Path(config.input or ""), Path(config.output or "")
    order = read_ids(Path(config.ids)) if config.ids is not None else None
    source: Source = _index(path, order) if path.suffix == ".tsv" else RegionFile(path)
    kept = "float16" if source.dtype == np.float16 else "float32"
    dtype = np.dtype(config.dtype or kept)
    about = path.stat()
    identity = {
        "input": str(path.resolve()),
        "bytes": about.st_size,
        "modified_ns": about.st_mtime_ns,
        "order": None if order is None else hashlib.sha256("\n".join(order).encode()).hexdigest(),
        "shape": list(source.shape),
        "dtype": dtype.name,
    }
    return Plan(source, target, dtype, identity)


def _index(path: Path, order: list[str] | None) -> BottomUpFile:
    """Open a TSV, with a bar for the pass over it."""
    progress = Progress(f"index of {path.name}", path.stat().st_size, unit="bytes")
    try:
        return BottomUpFile(path, order, advance=progress.advance)
    finally:
        progress.close()


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Convert a file."""
    (config,) = parsed(
        "tools.convert", "Convert region features, a block at a time.", argv, {"conversion": ConvertConfig}
    )
    plan = make_plan(config)
    rows, regions, dims = plan.source.shape
    print(f"{plan.source.path}: {rows} rows x {regions} x {dims}, {plan.source.dtype} -> {plan.dtype}")
    progress = Progress(plan.target.name, rows, unit="rows")
    try:
        first = convert(plan, progress.advance)
    except KeyboardInterrupt:
        print(f"{plan.rows_done()} of {rows} rows are written; the same command goes on from them", file=sys.stderr)
        raise
    finally:
        progress.close()
    going_on = f", of which {first} were there from before" if first else ""
    print(f"{plan.target}: {rows} rows{going_on}")
    if plan.target.suffix != ".npy" and plan.target.with_suffix(".npy").is_file():
        print(f"{plan.target.with_suffix('.npy')} is there too and is read first; move it away")
    if isinstance(plan.source, BottomUpFile):
        aside = f"{plan.source.num_repeated} repeated lines and {plan.source.num_unused} other images left aside"
        print(f"{plan.ids}: the image of each row; {aside}")
        if broken := plan.source.broken:
            more = ", ..." if len(broken) > SHOWN else ""
            print(f"{len(broken)} broken line{'s' * (len(broken) > 1)} left aside: {', '.join(broken[:SHOWN])}{more}")


if __name__ == "__main__":
    main()
