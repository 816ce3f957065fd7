"""The command: pictures to a data set that trains; and its faults."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

import run
from data_utils.regions import RegionStore
from tests.tiny import THEMES, captions_for
from tests.tools.conftest import ErrorOf
from tools.audit import __main__ as audit
from tools.check import __main__ as check
from tools.extract import __main__ as extract
from tools.extract import backbones, regions
from tools.extract.backbones import Lite0
from tools.report import __main__ as report
from tools.search import __main__ as search
from vocab import build

COLOURS = ((200, 30, 30), (30, 40, 200), (20, 150, 60), (120, 90, 60), (240, 240, 240), (90, 90, 90), (30, 180, 180))
NAME = "own_precomp"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder with `pictures/`: for each split a few pictures of three sizes and kinds of file, and `{split}.csv`."""
    image = pytest.importorskip("PIL.Image")
    random = np.random.RandomState(0)
    for turn, (split, count) in enumerate((("train", 20), ("dev", 6), ("test", 6))):
        folder = tmp_path / "pictures" / split
        folder.mkdir(parents=True)
        rows = []
        for number in range(count):
            theme = number % len(COLOURS)
            shape = ((40, 60), (64, 48), (50, 50))[number % 3]
            pixels = np.clip(np.array(COLOURS[theme]) + random.randint(-20, 20, (*shape, 3)), 0, 255).astype(np.uint8)
            name = f"{split}/{number}.{('png', 'jpg', 'bmp')[number % 3]}"
            image.fromarray(pixels).save(tmp_path / "pictures" / name)
            rows += [(name, caption) for caption in captions_for(THEMES[theme], number + turn, 5)]
        with open(tmp_path / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "caption"), *rows])
    return tmp_path


class Means:
    """A backbone that is quick: the means of 2 x 2 parts of 8 x 8 pixels."""

    size = (8, 8)

    def maps(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(len(pixels), 2, 4, 2, 4, 3).mean(axis=(2, 4)).astype(np.float32)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every backbone be `Means`."""
    monkeypatch.setattr(extract, "open_backbone", lambda *how: Means())


def flags(root: Path, split: str = "train", *extra: str) -> list[str]:
    """Return the command's arguments; later flags win."""
    return [
        *("--images", str(root / "pictures"), "--captions", str(root / f"{split}.csv"), "--split", split),
        *("--output", str(root / "data" / NAME), "--gpu", "cpu", *extra),
    ]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def pixels_of(root: Path, name: str) -> np.ndarray:
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(root / "pictures" / name).convert("RGB"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("batch_size", ["1", "3", "64"])
@pytest.mark.parametrize(("kind", "dtype"), [("h5", "float32"), ("npy", "float16")])
def test_the_files_of_a_split(
    root: Path, capsys: pytest.CaptureFixture[str], batch_size: str, kind: str, dtype: str
) -> None:
    extract.main(flags(root, "train", "--grid", "2", "--batch_size", batch_size, "--format", kind, "--dtype", dtype))
    folder = root / "data" / NAME
    assert files(folder) == ["train_caps.txt", "train_images.txt", "train_images_folder.txt", f"train_ims.{kind}"]
    assert (folder / "train_images_folder.txt").read_text() == f"{(root / 'pictures').resolve()}\n"
    with open(root / "train.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    names = list(dict.fromkeys(name for name, _ in rows))
    assert (folder / "train_images.txt").read_text(encoding="utf-8").splitlines() == names
    assert (folder / "train_caps.txt").read_text(encoding="utf-8").splitlines() == [caption for _, caption in rows]
    store = RegionStore(folder, "train")
    assert store.shape == (20, 4, 3)
    expected = [Means().maps(regions.resized(pixels_of(root, name), (8, 8))[None]).reshape(4, 3) for name in names]
    np.testing.assert_allclose(store.read(np.arange(20)), np.array(expected), rtol=1e-6 if dtype == "float32" else 1e-3)
    if kind == "h5":
        with h5py.File(folder / "train_ims.h5") as file:
            assert file["features"].dtype == dtype and file["features"].chunks == (1, 4, 3)
    else:
        assert np.load(folder / "train_ims.npy").dtype == dtype
    out = capsys.readouterr().out
    assert out == f"{folder}/train_ims.{kind}: 20 pictures x 4 regions x 3 {dtype}, 5 captions each\n"


@pytest.mark.usefixtures("quick")
def test_boxes(root: Path) -> None:
    own = np.array([[0, 0, 20, 10], [5, 5, 40, 40], [30, 30, 48, 40]])
    boxes = {f"dev/{k}.{('png', 'jpg', 'bmp')[k % 3]}": own.tolist() + [[0, 0, 1, 1]] * k for k in range(6)}
    (root / "boxes.json").write_text(json.dumps(boxes), encoding="utf-8")
    extract.main(flags(root, "dev", "--boxes", str(root / "boxes.json"), "--num_boxes", "3", "--batch_size", "4"))
    store = RegionStore(root / "data" / NAME, "dev")
    assert store.shape == (6, 3, 3)
    found = store.read(np.arange(6))
    for k, name in enumerate(boxes):
        for j, (left, top, right, bottom) in enumerate(own):
            cut = regions.resized(pixels_of(root, name)[top:bottom, left:right], (8, 8))
            np.testing.assert_allclose(found[k, j], cut.mean(axis=(0, 1)), rtol=1e-5)


def test_own_pictures_train(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures -> regions of Lite0 -> check -> vocabulary -> one epoch."""
    pytest.importorskip("efficientnet_lite_pytorch")
    for split in ("train", "dev", "test"):
        extract.main(flags(root, split, "--grid", "3", "--size", "96"))
    store = RegionStore(root / "data" / NAME, "dev")
    assert store.shape == (6, 9, backbones.CHANNELS)
    first = regions.resized(pixels_of(root, "dev/0.png"), (96, 96))
    np.testing.assert_allclose(
        store.read(np.arange(1))[0], Lite0(torch.device("cpu")).maps(first[None]).reshape(9, -1), atol=1e-4
    )
    common = ["--data_path", str(root / "data"), "--data_name", NAME, "--vocab_path", str(root / "vocab")]
    build.main(common)
    check.main(common)  # ends with an exception unless the data set can be used
    assert "\nusable" in capsys.readouterr().out
    small = ["--module_name", "VSE", "--word_dim", "8", "--embed_size", "16", "--batch_size", "16"]
    rest = ["--learning_rate", "0.01", "--warmup_epoch", "1", "--num_epochs", "1", "--gpu", "cpu"]
    run.main([*common, *small, *rest, "--output_dir", str(root / "runs"), "--noise_ratio", "0.2"])
    (folder,) = (root / "runs").iterdir()
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("quick")
def test_own_pictures_are_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures -> regions -> vocabulary -> a run -> report, audit and search, which find the pictures again."""
    for split in ("train", "dev", "test"):
        extract.main(flags(root, split, "--grid", "2"))
    (root / "data").rename(root / "moved")
    common = ["--data_path", str(root / "moved"), "--data_name", NAME, "--vocab_path", str(root / "vocab")]
    build.main(common)
    small = ["--module_name", "VSE", "--word_dim", "8", "--embed_size", "16", "--batch_size", "16", "--gpu", "cpu"]
    rest = ["--warmup_epoch", "0", "--num_epochs", "1", "--noise_ratio", "0.2", "--output_dir", str(root / "runs")]
    run.main([*common, *small, *rest])
    (folder,) = (root / "runs").iterdir()
    checkpoint = ["--mode_path", str(folder / "checkpoint_dev_best.pth.tar"), "--gpu", "cpu"]
    pages = [root / "report.html", root / "audit" / "audit.html", root / "search.html"]

    def show(*more: str) -> list[int]:
        """Make the three pages; return how many pictures each has."""
        capsys.readouterr()
        report.main([str(folder), "--output", str(pages[0]), "--gpu", "cpu", *more])
        audit.main([*checkpoint, "--output", str(pages[1].parent), "--overwrite", *more])
        search.main([*checkpoint, "red dog", "--html", str(pages[2]), *more])
        return [page.read_text(encoding="utf-8").count("data:image/webp") for page in pages]

    assert min(show()) > 0 and not capsys.readouterr().err
    (root / "pictures").rename(root / "elsewhere")
    assert show() == [0, 0, 0]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(told) == 4, "the report of train and of test"
    assert all("pictures are missing" in line and "--pictures DIR" in line for line in told)
    assert min(show("--pictures", str(root / "elsewhere"))) > 0 and not capsys.readouterr().err


# -- pictures that cannot be read ------------------------------------------------------------------------------------


@pytest.fixture(params=["text", "cut", "missing", "folder"])
def broken(root: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Break the fifth picture of the training split; return its name."""
    path = root / "pictures" / "train" / "4.jpg"
    content = path.read_bytes()
    path.unlink()
    if request.param == "folder":
        path.mkdir()
    elif request.param != "missing":
        path.write_bytes(b"no picture" if request.param == "text" else content[: len(content) // 2])
    yield "train/4.jpg"


@pytest.mark.usefixtures("quick")
def test_a_broken_picture_ends_the_command(root: Path, broken: str, error_of: ErrorOf) -> None:
    line = error_of(extract.main, flags(root, "train", "--grid", "2"))
    assert f"picture {root / 'pictures' / broken} cannot be read" in line and "--skip_bad" in line
    assert not (root / "data").exists(), "nothing is left"


@pytest.mark.usefixtures("quick")
def test_broken_pictures_are_left_out_and_counted(root: Path, broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    extract.main(flags(root, "train", "--grid", "2", "--skip_bad"))
    folder = root / "data" / NAME
    names = (folder / "train_images.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == 19 and broken not in names
    assert len((folder / "train_caps.txt").read_text(encoding="utf-8").splitlines()) == 95
    store = RegionStore(folder, "train")
    expected = Means().maps(regions.resized(pixels_of(root, "train/5.bmp"), (8, 8))[None]).reshape(4, 3)
    np.testing.assert_allclose(store.read(np.array([4]))[0], expected, rtol=1e-6)
    out = capsys.readouterr().out
    assert f"skipped: picture {root / 'pictures' / broken} cannot be read" in out
    assert "19 pictures x 4" in out and "1 of 20 pictures were skipped" in out


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_box_outside_is_told(root: Path, error_of: ErrorOf) -> None:
    boxes = {f"dev/{k}.{('png', 'jpg', 'bmp')[k % 3]}": [[0, 0, 5, 5], [1, 2, 48, 40 + 5 * (k == 3)]] for k in range(6)}
    (root / "boxes.json").write_text(json.dumps(boxes), encoding="utf-8")
    line = error_of(extract.main, flags(root, "dev", "--boxes", str(root / "boxes.json")))
    assert "box 2 of picture dev/3.png, (1.0, 2.0, 48.0, 45.0), reaches outside the picture of 60 x 40 pixels" in line
    del boxes["dev/1.jpg"]
    (root / "boxes.json").write_text(json.dumps(boxes), encoding="utf-8")
    assert "no box of dev/1.jpg" in error_of(extract.main, flags(root, "dev", "--boxes", str(root / "boxes.json")))
    assert not (root / "data").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--split", "valid"], "--split 'valid' is unknown; known: train, dev, test, testall"),
        (["--grid", "0"], "--grid 0 is out of range"),
        (["--grid", "9"], "a map of 6 x 6 cells, --grid 9 asks for more"),
        (["--grid", "2", "--boxes", "x.json"], "--grid and --boxes"),
        (["--num_boxes", "2"], "--num_boxes needs --boxes"),
        (["--boxes", "x.json"], "x.json cannot be read"),
        (["--images", "nowhere"], "--images nowhere is no folder"),
        (["--captions", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--backbone", "nowhere"], "--backbone nowhere is neither lite0, nor a folder, nor an .onnx file"),
        (["--mean", "0,0,0"], "not for --backbone lite0"),
        (["--mean", "0,0"], "--mean '0,0' must be three numbers"),
        (["--std", "1,0,1"], "--std 1,0,1 must be greater than 0"),
        (["--captions_per_image", "6"], "--captions_per_image is 6"),
    ],
)
def test_faulty_flags(root: Path, error_of: ErrorOf, extra: list[str], message: str) -> None:
    if message.startswith("a map"):
        pytest.importorskip("efficientnet_lite_pytorch")
    assert message in error_of(extract.main, flags(root, "train", *extra))
    assert not (root / "data").exists()


@pytest.mark.parametrize(
    "name", ["dev_ims.h5", "dev_ims.npy", "dev_caps.txt", "dev_caps.tsv", "dev_images.txt", "dev_images_folder.txt"]
)
def test_nothing_is_written_over(root: Path, error_of: ErrorOf, name: str) -> None:
    folder = root / "data" / NAME
    folder.mkdir(parents=True)
    (folder / name).write_text("mine", encoding="utf-8")
    assert f"{folder / name} exists; nothing is written over" in error_of(extract.main, flags(root, "dev"))
    assert files(folder) == [name] and (folder / name).read_text(encoding="utf-8") == "mine"


@pytest.mark.usefixtures("quick")
def test_a_disk_too_small_is_told_before(root: Path, error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=959))
    assert "takes 960 bytes, the disk has 959 left" in error_of(extract.main, flags(root, "train", "--grid", "2"))
    assert not files(root / "data" / NAME)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["h5", "npy"])
@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, "float32", "features of train/4.jpg are not finite"),
        (np.inf, "float16", "features of train/4.jpg are not finite"),
        (70000.0, "float16", "row 4 holds 70000, too large for float16"),
        (None, "float32", "interrupted"),
    ],
)
def test_what_breaks_off_leaves_nothing(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    value: float | None,
    dtype: str,
    message: str,
) -> None:
    calls: list[int] = []

    def broken(self: regions.Regions, inputs: np.ndarray, pictures: int) -> np.ndarray:
        calls.append(pictures)
        if value is None and len(calls) == 3:
            raise KeyboardInterrupt
        return np.full((pictures, 4, 3), value if len(calls) == 3 else 0, dtype=np.float32)

    monkeypatch.setattr(regions.Regions, "compute", broken)
    folder = root / "data" / NAME
    for there in ([], ["test_caps.txt"]):
        calls.clear()
        for name in there:
            folder.mkdir(parents=True)
            (folder / name).write_text("mine", encoding="utf-8")
        with pytest.raises(SystemExit) as stop:
            extract.main(
                flags(root, "train", *("--grid", "2", "--batch_size", "2", "--format", kind, "--dtype", dtype))
            )
        assert stop.value.code == (130 if value is None else 2) and message in capsys.readouterr().err
        assert files(folder) == there
