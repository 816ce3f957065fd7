"""Conversions: the same numbers in every kind of file, whatever interrupts them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_utils.regions import RegionFile
from tests.tools.conftest import ErrorOf
from tests.tools.convert.bottom_up_files import tsv_line, write_lines, write_tsv
from tools.convert import __main__ as convert
from tools.convert import conversion
from tools.convert.conversion import WRITERS, Hdf5Writer, NpyWriter

ROOT = Path(__file__).resolve().parents[3]
FEATURES = np.random.RandomState(0).randn(11, 3, 5).astype(np.float32)
ROWS = np.arange(11)


@pytest.fixture(autouse=True)
def _three_rows_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "BLOCK_BYTES", 3 * FEATURES[0].nbytes)


INPUTS: dict[str, Callable[[np.ndarray], np.ndarray] | dict[str, object]] = {
    "npy": lambda features: features,
    "npy float64": lambda features: features.astype(np.float64),
    "npy Fortran": np.asfortranarray,
    "npy big-endian": lambda features: features.astype(">f4"),
    "h5": {},
    "h5 chunks": {"chunks": (4, 2, 5), "compression": "gzip"},
    "h5 wide chunks": {"chunks": (11, 1, 1), "compression": "gzip"},
    "tsv": {},
}


def write(path: Path, kind: str) -> Path:
    """Write FEATURES as one of the inputs."""
    path, how = path.with_suffix(f".{kind.split()[0]}"), INPUTS[kind]
    if callable(how):
        np.save(path, how(FEATURES))
    elif kind == "tsv":
        write_tsv(path, FEATURES)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("features", data=FEATURES, **how)
    return path


def stored(path: Path) -> np.ndarray:
    """Read a finished file with nothing of ours."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    with h5py.File(path, "r") as file:
        return file["features"][()]


def run(*flags: str | Path) -> None:
    convert.main([str(f) for f in flags])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_to_every_kind(tmp_path: Path, kind: str, suffix: str, dtype: str) -> None:
    source, target = write(tmp_path / "in", kind), tmp_path / f"out{suffix}"
    run("--input", source, "--output", target, "--dtype", dtype)
    found = stored(target)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, FEATURES.astype(dtype))
    np.testing.assert_array_equal(RegionFile(target).read(ROWS), FEATURES.astype(dtype).astype(np.float32))
    if suffix == ".h5":
        with h5py.File(target, "r") as file:
            assert list(file) == ["features"] and file["features"].chunks == (1, 3, 5)
            assert file["features"].compression is None
    elif (kind, dtype) == ("npy", "float32"):
        assert target.read_bytes() == source.read_bytes()
    beside = {"out.ids.txt"} if kind == "tsv" else set()
    assert {p.name for p in tmp_path.iterdir()} == {source.name, target.name} | beside


# -- interruptions ----------------------------------------------------------------------------------------------------


class Broken:
    """Stop a writer in the middle of its block number `after` (from 1 on), as `stop` does it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type, after: int, stop: Callable[[], None]) -> None:
        self.patch, self.kind, self.starts = monkeypatch, kind, []
        original = kind.write

        def write(writer: object, start: int, features: np.ndarray) -> None:
            self.starts.append(start)
            if len(self.starts) == after:
                original(writer, start, features[:1])
                stop()
            original(writer, start, features)

        monkeypatch.setattr(kind, "write", write)


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize(("suffix", "writer"), [(".npy", NpyWriter), (".h5", Hdf5Writer)])
@pytest.mark.parametrize("kind", ["npy", "h5 chunks", "tsv"])
def test_an_interrupted_conversion_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    suffix: str,
    writer: type,
    after: int,
) -> None:
    source, target = write(tmp_path / "in", kind), tmp_path / f"out{suffix}"
    flags = ("--input", source, "--output", target, "--dtype", "float16")
    with monkeypatch.context() as patch:
        Broken(patch, writer, after, press_ctrl_c)
        with pytest.raises(SystemExit) as stop:
            run(*flags)
    done = (after - 1) * (4 if kind == "h5 chunks" else 3)
    assert stop.value.code == 130 and f"{done} of 11 rows are written" in capsys.readouterr().err
    assert not target.exists() and (tmp_path / f"out{suffix}.part").exists()
    second = Broken(monkeypatch, writer, 99, press_ctrl_c)
    run(*flags)
    assert second.starts[0] == done, "it went on where it was"
    np.testing.assert_array_equal(stored(target), FEATURES.astype(np.float16))
    assert not list(tmp_path.glob("*.part*"))
    assert (f"{done} were there from before" in capsys.readouterr().out) == (done > 0)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_killed_conversion_goes_on(tmp_path: Path, suffix: str) -> None:
    """SIGKILL between two parts of a block, with nothing flushed: no Python is left to tidy up."""
    source, target = write(tmp_path / "in", "npy"), tmp_path / f"out{suffix}"
    code = f"""
import os, signal
from tools.convert import __main__ as convert
from tools.convert import conversion
from tools.convert.conversion import WRITERS
conversion.BLOCK_BYTES = {3 * FEATURES[0].nbytes}
kind, blocks = WRITERS[{suffix!r}], []
write = kind.write
def until_killed(writer, start, features):
    write(writer, start, features[:2])
    blocks.append(start)
    if len(blocks) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    write(writer, start, features)
kind.write = until_killed
convert.main(["--input", {str(source)!r}, "--output", {str(target)!r}])
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not target.exists()
    assert json.loads((tmp_path / f"out{suffix}.part.json").read_bytes())["rows_done"] == 6
    run("--input", source, "--output", target)
    np.testing.assert_array_equal(stored(target), FEATURES)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "part gone": lambda part, state: part.unlink(),
    "part cut": lambda part, state: os.truncate(part, 200),  # rows that the state says are there
    "part of other bytes": lambda part, state: part.write_bytes(b"x" * part.stat().st_size),
    "state gone": lambda part, state: state.unlink(),
    "state cut": lambda part, state: state.write_bytes(state.read_bytes()[:-9]),
    "state beyond": lambda part, state: state.write_text(state.read_text().replace('_done": 6', '_done": 99')),
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_remainder_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, damage: str
) -> None:
    source, target = write(tmp_path / "in", "npy"), tmp_path / f"out{suffix}"
    part, state = tmp_path / f"out{suffix}.part", tmp_path / f"out{suffix}.part.json"
    with monkeypatch.context() as patch:
        Broken(patch, WRITERS[suffix], 3, press_ctrl_c)
        with pytest.raises(SystemExit):
            run("--input", source, "--output", target)
    DAMAGES[damage](part, state)
    run("--input", source, "--output", target)
    np.testing.assert_array_equal(stored(target), FEATURES)
    assert not part.exists() and not state.exists()


@pytest.mark.parametrize(("suffix", "writer"), [(".npy", NpyWriter), (".h5", Hdf5Writer)])
def test_a_full_disk_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_of: ErrorOf, suffix: str, writer: type
) -> None:
    def fails() -> None:
        raise OSError(28, "No space left on device")

    source, target = write(tmp_path / "in", "npy"), tmp_path / f"out{suffix}"
    with monkeypatch.context() as patch:
        Broken(patch, writer, 3, fails)
        error = error_of(convert.main, ("--input", source, "--output", target))
    assert "No space left on device; 6 of 11 rows are there" in error
    assert not target.exists()
    run("--input", source, "--output", target)
    np.testing.assert_array_equal(stored(target), FEATURES)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_disk_too_small_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_of: ErrorOf) -> None:
    source = write(tmp_path / "in", "npy")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 341, 659))  # type: ignore[attr-defined]
    line = error_of(convert.main, ("--input", source, "--output", tmp_path / "out.npy"))
    assert "takes 660 bytes, the disk has 659 left" in line
    run("--input", source, "--output", tmp_path / "out.npy", "--dtype", "float16")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--input is missing"),
        (["--input", "in.npy"], "--output is missing"),
        (["--input", "in.txt", "--output", "out.h5"], "--input in.txt has the suffix '.txt'; known: .npy, .h5"),
        (["--input", "in.npy", "--output", "out.tsv"], "--output out.tsv has the suffix '.tsv'; known: .npy, .h5"),
        (["--input", "none.npy", "--output", "out.h5"], "--input none.npy is not there"),
        (["--input", "in.npy", "--output", "in.npy"], "--output in.npy exists"),
        (["--input", "in.npy", "--output", "no/out.h5"], "its folder does not exist"),
        (
            ["--input", "in.npy", "--output", "out.h5", "--dtype", "float64"],
            "'float64' is unknown; did you mean float16? known: float16, float32",
        ),
        (["--input", "in.npy", "--output", "out.h5", "--ids", "x.txt"], "--ids orders the rows of a .tsv"),
        (["--input", "cut.npy", "--output", "out.h5"], "cut.npy is cut short: shape (11, 3, 5) of float32"),
        (["--input", "cut.h5", "--output", "out.npy"], "cut.h5 is cut short"),
        (["--input", "flat.npy", "--output", "out.h5"], "flat.npy has shape (11, 15)"),
        (["--input", "nan.npy", "--output", "out.h5"], "nan.npy row 7 holds NaN"),
        (
            ["--input", "large.npy", "--output", "out.h5", "--dtype", "float16"],
            "row 8 holds 65520, too large for float16",
        ),
        (["--input", "bad.tsv", "--output", "out.h5"], "bad.tsv line 5 (image 4)"),
        (["--input", "wide.npy", "--output", "out.h5"], "wide.npy row 10 holds NaN or infinite"),
    ],
)
def test_faults_are_one_line_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_of: ErrorOf, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = write(tmp_path / "in", "npy").read_bytes()
    Path("cut.npy").write_bytes(whole[:-1])
    hdf5 = write(tmp_path / "cut", "h5")
    hdf5.write_bytes(hdf5.read_bytes()[:-100])
    np.save("flat.npy", FEATURES.reshape(11, 15))
    for name, row, value, dtype in (("nan", 7, np.nan, "f4"), ("large", 8, -65520, "f4"), ("wide", 10, 1e39, "f8")):
        broken = FEATURES.astype(dtype)
        broken[row, 2, 4] = value
        np.save(f"{name}.npy", broken)
    lines = [tsv_line(str(k), features) for k, features in enumerate(FEATURES)]
    lines[4][5] = "?"
    write_lines(Path("bad.tsv"), lines)
    before = sorted(os.listdir())
    assert message in error_of(convert.main, flags)
    assert sorted(os.listdir()) == before
