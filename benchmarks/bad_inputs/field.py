"""Bad inputs of issue 4, formats: files of other programs, mixed up, cut short, or not what they say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import h5py
import numpy as np

from benchmarks.bad_inputs.case import ACCEPTED, FAULT_FOUND, NAME, REFUSED, Case, Workshop, save_pictures
from data_utils import extract
from tests.data_utils.bottom_up_files import tsv_line, write_lines
from tests.tiny import make_tiny_data

ISSUE = "4. formats"


class _Means:
    """A backbone that is quick: the means of 2 x 2 parts of 8 x 8 pixels."""

    size = (8, 8)

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(len(pixels), 2, 4, 2, 4, 3).mean(axis=(2, 4)).astype(np.float32)


def _exchange(folder: Path, one: str, other: str, *suffixes: str) -> None:
    for suffix in suffixes:
        shutil.move(folder / f"{one}{suffix}", folder / "aside")
        shutil.move(folder / f"{other}{suffix}", folder / f"{one}{suffix}")
        shutil.move(folder / "aside", folder / f"{other}{suffix}")


def _mixed(w: Workshop) -> list[object]:
    _exchange(w.data, "dev", "test", "_ims.npy")
    return [*w.places]


def _mixed_run(w: Workshop) -> list[object]:
    _mixed(w)
    return [*w.flags()]


def _swapped(w: Workshop) -> list[object]:
    _exchange(w.data, "train", "test", "_ims.npy", "_caps.txt")
    return [*w.places]


def _of_windows(w: Workshop) -> list[object]:
    for path in w.data.glob("*_caps.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    return [*w.flags()]


def _no_tab(w: Workshop) -> list[object]:
    root = make_tiny_data(w.folder / "tsv", captions_per_image=1, tsv=True)
    path = root / "data" / NAME / "train_caps.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[16] = lines[16].replace("\t", " ")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [*w.flags("--data_path", str(root / "data"), "--vocab_path", str(root / "vocab"))]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_npy(w: Workshop) -> list[object]:
    _cut(w.data / "test_ims.npy")
    return [*w.flags()]


def _cut_hdf5(w: Workshop) -> list[object]:
    features = np.load(w.data / "train_ims.npy")
    (w.data / "train_ims.npy").unlink()
    with h5py.File(w.data / "train_ims.h5", "w") as file:
        file.create_dataset("features", data=features)
    _cut(w.data / "train_ims.h5")
    return [*w.flags()]


def _cut_checkpoint(w: Workshop) -> list[object]:
    path = Path(shutil.copy(w.checkpoint, w.folder / "cut.pth.tar"))
    _cut(path)
    return ["--mode_path", path, "--gpu", "cpu"]


def _bad_base64(w: Workshop) -> list[object]:
    lines = [tsv_line(str(10 + k), np.ones((3, 4), np.float32)) for k in range(6)]
    lines[4][5] = "?" + lines[4][5][1:]
    return ["--input", write_lines(w.folder / "boxes.tsv", lines), "--output", w.folder / "out.h5"]


def _extract(*extra: str, boxes: dict[str, list[list[int]]] | None = None) -> Callable[[Workshop], list[object]]:
    """Extract features of six pictures, of which the fourth cannot be read unless boxes are given."""

    def prepare(w: Workshop) -> list[object]:
        w.open_for(mock.patch.object(extract, "open_backbone", lambda config: _Means()))
        pictures = w.folder / "pictures"
        pictures.mkdir()
        names = save_pictures(pictures, 6)
        if boxes is None:
            _cut(pictures / names[3])
        else:
            (w.folder / "boxes.json").write_text(json.dumps(boxes), encoding="utf-8")
        rows = "".join(f"{name},a red dog\n" for name in names)
        (w.folder / "captions.csv").write_text(f"image,caption\n{rows}", encoding="utf-8")
        how = ["--grid", "2"] if boxes is None else ["--boxes", str(w.folder / "boxes.json")]
        return [
            *("--images", pictures, "--captions", w.folder / "captions.csv", "--split", "train"),
            *("--output", w.output / "own_precomp", "--gpu", "cpu", *how, *extra),
        ]

    return prepare


def _case(
    wrong: str, command: str, prepare: Callable[[Workshop], list[object]], told: str, code: int = REFUSED
) -> Case:
    return Case(ISSUE, wrong, command, prepare, told, code, ("PIL",) if command == "data_utils.extract" else ())


OUTSIDE = {f"{k}.png": [[0, 0, 5, 5], [1, 2, 48, 40 + 5 * (k == 3)]] for k in range(6)}
CASES = [
    _case("features and captions of different splits", "run.py", _mixed_run, "4 feature rows.*25 captions"),
    _case("the same, before training", "data_utils.check", _mixed, "fault.*files of different splits", FAULT_FOUND),
    _case("train and test swapped", "data_utils.check", _swapped, "fault.*probably swapped", FAULT_FOUND),
    _case("Windows line ends and a byte-order mark", "run.py", _of_windows, "written to .*results.json", ACCEPTED),
    _case("a tab missing in a tsv", "run.py", _no_tab, "train_caps.tsv line 17 has no tab"),
    _case("npy cut short", "run.py", _cut_npy, "test_ims.npy"),
    _case("HDF5 cut short", "run.py", _cut_hdf5, "train_ims.h5"),
    _case("checkpoint cut short", "evaluation.py", _cut_checkpoint, "cut.pth.tar"),
    _case("TSV with a bad base64 row", "data_utils.convert", _bad_base64, r"boxes.tsv line 5 \(image 14\).*base64"),
    _case(
        "a box outside its picture", "data_utils.extract", _extract(boxes=OUTSIDE), "box 2 of picture 3.png.*outside"
    ),
    _case("a picture that cannot be read", "data_utils.extract", _extract(), r"3\.png cannot be read.*--skip_bad"),
    _case(
        "the same with --skip_bad", "data_utils.extract", _extract("--skip_bad"), "1 of 6 pictures were skip", ACCEPTED
    ),
]
