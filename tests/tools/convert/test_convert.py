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
from tests.tools.convert.bottom_up_files import write_tsv
from tools.convert import __main__ as convert
from tools.convert import conversion
from tools.convert.conversion import WRITERS, Hdf5Writer, NpyWriter

ROOT = Path(__file__).resolve().parents[3]
FEATURES = np.random.RandomState(0).randn(11, 3, 5).astype(np.float32)
ROWS = np.arange(11)


@pytest.fixture(autouse=True)
def _three_rows_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "BLOCK_BYTES", 3 * FEATURES[0].nbytes)


def write(path: Path, kind: str) -> Path:
    """Write FEATURES as one of the inputs."""
    if kind == "tsv":
        return write_tsv(path.with_suffix(".tsv"), FEATURES)
    if kind == "npy":
        np.save(path.with_suffix(".npy"), FEATURES)
        return path.with_suffix(".npy")
    if kind == "npy float64":
        np.save(path.with_suffix(".npy"), FEATURES.astype(np.float64))
        return path.with_suffix(".npy")
    if kind == "npy Fortran":
        np.save(path.with_suffix(".npy"), np.asfortranarray(FEATURES))
        return path.with_suffix(".npy")
    if kind == "npy big-endian":
        np.save(path.with_suffix(".npy"), FEATURES.astype(">f4"))
        return path.with_suffix(".npy")
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        chunks = {"h5": None, "h5 chunks": (4, 2, 5), "h5 wide chunks": (11, 1, 1)}[kind]
        file.create_dataset("features", data=FEATURES, chunks=chunks, compression="gzip" if chunks else None)
    return path.with_suffix(".h5")


INPUTS = ("npy", "npy float64", "npy Fortran", "npy big-endian", "h5", "h5 chunks", "h5 wide chunks", "tsv")


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
    beside = {"out.ids.txt"} if kind == "tsv" else set()
    assert {p.name for p in tmp_path.iterdir()} == {source.name, target.name} | beside


def test_hdf5_is_chunked_by_image_and_npy_is_plain(tmp_path: Path) -> None:
    source = write(tmp_path / "in", "npy")
    run("--input", source, "--output", tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5", "r") as file:
        assert list(file) == ["features"] and file["features"].chunks == (1, 3, 5)
        assert file["features"].compression is None
    run("--input", tmp_path / "out.h5", "--output", tmp_path / "back.npy")
    assert (tmp_path / "back.npy").read_bytes() == source.read_bytes()


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


def broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str = ".npy", *flags: str) -> tuple[Path, Path]:
    """Convert an npy until six rows are done; return input and output."""
    source, target = write(tmp_path / "in", "npy"), tmp_path / f"out{suffix}"
    with monkeypatch.context() as patch:
        Broken(patch, WRITERS[suffix], 3, press_ctrl_c)
        with pytest.raises(SystemExit):
            run("--input", source, "--output", target, *flags)
    return source, target


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    "damage", ["part gone", "part cut", "part of other bytes", "state gone", "state cut", "state beyond"]
)
def test_a_damaged_remainder_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, damage: str
) -> None:
    source, target = broken_off(tmp_path, monkeypatch, suffix)
    part, state = tmp_path / f"out{suffix}.part", tmp_path / f"out{suffix}.part.json"
    if damage == "part gone":
        part.unlink()
    elif damage == "part cut":
        os.truncate(part, 200)  # rows that the state says are there
    elif damage == "part other":
        part.write_bytes(b"x" * part.stat().st_size)
    elif damage == "state gone":
        state.unlink()
    elif damage == "state cut":
        state.write_bytes(state.read_bytes()[:-9])
    else:
        state.write_text(state.read_text().replace('"rows_done": 6', '"rows_done": 99'))
    run("--input", source, "--output", target)
    np.testing.assert_array_equal(stored(target), FEATURES)
    assert not part.exists() and not state.exists()


@pytest.mark.parametrize(("suffix", "writer"), [(".npy", NpyWriter), (".h5", Hdf5Writer)])
def test_a_full_disk_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suffix: str, writer: type
) -> None:
    def fails() -> None:
        raise OSError(28, "No space left on device")

    source, target = write(tmp_path / "in", "npy"), tmp_path / f"out{suffix}"
    with monkeypatch.context() as patch:
        Broken(patch, writer, 3, fails)
        assert "No space left on device; 6 of 11 rows are there" in failing(
            capsys, "--input", source, "--output", target
        )
    assert not target.exists()
    run("--input", source, "--output", target)
    np.testing.assert_array_equal(stored(target), FEATURES)


# -- what is refused --------------------------------------------------------------------------------------------------


def failing(capsys: pytest.CaptureFixture[str], *flags: str | Path) -> str:
    """Convert with something that cannot work; return the one line that is printed."""
    with pytest.raises(SystemExit) as stop:
        run(*flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


def test_a_disk_too_small_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in", "npy")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 341, 659))  # type: ignore[attr-defined]
    line = failing(capsys, "--input", source, "--output", tmp_path / "out.npy")
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
        (
            ["--input", "cut.npy", "--output", "out.h5"],
            "cut.npy is cut short: shape (11, 3, 5) of float32",
        ),
        (["--input", "cut.h5", "--output", "out.npy"], "cut.h5 is cut short"),
        (["--input", "flat.npy", "--output", "out.h5"], "flat.npy has shape (11, 15)"),
        (["--input", "nan.npy", "--output", "out.h5"], "nan.npy row 7 holds NaN"),
        (
            ["--input", "large.npy", "--output", "out.h5", "--dtype", "float16"],
            "row 8 holds 65520, too large for float16",
        ),
        (["--input", "wide.npy", "--output", "out.h5"], "wide.npy row 10 holds NaN or infinite"),
    ],
)
def test_faults_are_one_line_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
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
    before = sorted(os.listdir())
    assert message in failing(capsys, *flags)
    assert sorted(os.listdir()) == before
