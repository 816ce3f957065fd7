"""python -m tools.noise: an index inspected, or made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_utils import catalog
from data_utils.catalog import Protocol
from data_utils.noise import make_index
from tests.data_utils.test_noise import IMAGES, PER_IMAGE, own, published, slow_mismatch
from tests.tiny import make_tiny_data
from tests.tools.conftest import ErrorOf
from tools import noise


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 images with 5 captions, stored once; the command needs no vocabulary."""
    place = make_tiny_data(tmp_path_factory.mktemp("noise"), images={"train": IMAGES, "dev": 4, "test": 5})
    for path in (place / "vocab").iterdir():
        path.unlink()
    return place


def run(root: Path, *argv: str | Path) -> int:
    """Run the command; return its exit code."""
    try:
        noise.main([*map(str, argv), "--data_name", "tiny_precomp", "--data_path", str(root / "data")])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


KINDS = {
    "ncr": (1000, "one a caption", "caption, as NCR, BiCro, PC2 and MGCS publish, and as CRCL's code takes"),
    "l2rm": (1000, "one a caption", "image, as L2RM publishes"),
    "rcl": (200, "one an image", "image, as RCL and DECL publish"),
}
"""Entries, and what is said of them."""


@pytest.mark.parametrize("kind", KINDS)
def test_inspect(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    entries, per, named = KINDS[kind]
    index = published(kind)
    np.save(tmp_path / "n.npy", index)
    assert run(root, "inspect", tmp_path / "n.npy") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path / 'n.npy'}: {entries} entries, int64, {per}"
    assert lines[1].endswith("train: 200 images, 5 captions an image")
    wrong = slow_mismatch(index)
    assert lines[2] == f"protocol: {named}"
    assert lines[3] == f"mismatched: {100 * wrong:.2f} % of the captions ({round(1000 * wrong)} of 1000)"
    assert lines[-2:] == ["a shuffle: yes", "n.json: not there"]


def test_make_then_inspect(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made.npy"
    flags = ("--noise_ratio", "0.4", "--noise_protocol", "image", "--noise_seed", "8")
    assert run(root, "make", "--noise_file", path, *flags) == 0
    assert np.array_equal(np.load(path), make_index(own(IMAGES, PER_IMAGE), 0.4, "image", 8)), "as run.py makes it"
    assert "made.npy: image noise, 40.00 % of the captions mismatched" in capsys.readouterr().out
    assert run(root, "inspect", path, "--noise_ratio", "0.4") == 0
    out = capsys.readouterr().out
    assert "made.json: agrees (ratio 0.4, seed 8)" in out and "warning" not in out
    assert run(root, "inspect", path, "--noise_ratio", "0.2") == 0
    assert "warning: --noise_ratio is 0.2" in capsys.readouterr().out
    assert run(root, "make", path, *flags) == 2
    assert "made.npy exists; an index is not written over" in capsys.readouterr().err


def test_a_sidecar_that_disagrees(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made.npy"
    run(root, "make", path, "--noise_ratio", "0.4")
    np.save(path, make_index(own(IMAGES, PER_IMAGE), 0.2, "image", 7))
    assert run(root, "inspect", path) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("made.json: disagrees: sha256 is ") and "protocol is caption beside it, image in" in line
    assert "measured_mismatch is 0.394 beside it, 0.195 in the index" in line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: action"),
        (["show", "n.npy"], "invalid choice: 'show'"),
        (["inspect"], "name the index file, once"),
        (["inspect", "n.npy", "--noise_file", "n.npy"], "name the index file, once"),
        (["inspect", "none.npy"], "no index file at none.npy"),
        (["inspect", "long.npy"], "it must be a list of whole numbers, one a caption (1000) or one an image (200)"),
        (["inspect", "beyond.npy"], "holds entries from 0 to 200; an entry is an image's number, 0 to 199"),
        (["inspect", "text.npy"], "is not a numeric npy file"),
        (["inspect", "many.npz"], "is an archive"),
        (["make", "new.npy"], "make needs --noise_ratio"),
        (["make", "new.npy", "--noise_ratio", "1"], "--noise_ratio 1.0 is out of range"),
        (["make", "new.npy", "--noise_ratio", "0.2", "--noise_protocol", "words"], "known: caption, image"),
    ],
)
def test_wrong_input_is_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_of: ErrorOf, argv: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("n.npy", published("rcl"))
    np.save("long.npy", np.arange(201))
    np.savez("many.npz", a=np.arange(200))
    np.save("beyond.npy", np.concatenate([np.arange(199), [200]]))
    Path("text.npy").write_text("0 1 2")
    assert message in error_of(noise.main, (*argv, "--data_name", "tiny_precomp", "--data_path", root / "data"))
    assert not Path("new.npy").exists()


def test_real_noise_is_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(catalog.PROTOCOLS, "tiny_precomp", Protocol(has_real_noise=True))
    np.save(tmp_path / "n.npy", published("rcl"))
    assert run(root, "inspect", tmp_path / "n.npy") == 0
    assert "warning: tiny_precomp has real noise; run.py takes no --noise_file for it" in capsys.readouterr().out
    assert run(root, "make", tmp_path / "new.npy", "--noise_ratio", "0.2") == 2
    assert "this data set has real noise" in capsys.readouterr().err
