"""A folder in each published layout, at reduced counts, passes the check, trains an epoch, is evaluated as published.

Names, files and rules are the published ones; images, regions, dimensions and the numbers in the rules are fewer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import evaluation
import run
from data_utils import catalog
from tests.tiny import make_tiny_data, tiny_flags
from tools.check import __main__ as check
from tools.convert import __main__ as convert
from vocab import build

DEV_IMAGES, FOLD_IMAGES = 6, 4


@dataclass(frozen=True)
class Layout:
    """A published data set, made smaller.

    Attributes:
        images: of each split.
        captions_per_image: as published.
        tsv: captions as image id TAB caption.
        repeat_rows: one feature row a caption.
        half: features as HDF5 in float16, converted from the npy.
        flags: of run.py.
    """

    images: dict[str, int]
    captions_per_image: int = 5
    tsv: bool = False
    repeat_rows: bool = False
    half: bool = False
    flags: tuple[str, ...] = ()


F30K = {"train": 24, "dev": 7, "test": 5}
COCO = {"train": 24, "dev": 9, "test": 4, "testall": 20}
LAYOUTS = {
    "f30k": ("f30k_precomp", Layout(F30K)),
    "f30k, a row a caption": ("f30k_precomp", Layout(F30K, repeat_rows=True)),
    "coco": ("coco_precomp", Layout(COCO)),
    "coco, HDF5": ("coco_precomp", Layout(COCO, half=True)),
    "cc152k": (
        "cc152k_precomp",
        Layout({"train": 40, "dev": 6, "test": 7}, captions_per_image=1, tsv=True, flags=("--noise_ratio", "0")),
    ),
}


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published rules with smaller numbers."""
    for name, rules in catalog.PROTOCOLS.items():
        dev = None if rules.dev_images is None else DEV_IMAGES
        monkeypatch.setitem(catalog.PROTOCOLS, name, replace(rules, dev_images=dev, fold_images=FOLD_IMAGES))


def make(root: Path, name: str, layout: Layout) -> list[str]:
    """Write the folder; return the flags that say where it is. `test` is the first fold of `testall`."""
    make_tiny_data(
        root,
        name,
        images=layout.images,
        captions_per_image=layout.captions_per_image,
        repeat_rows=layout.repeat_rows,
        tsv=layout.tsv,
    )
    folder = root / "data" / name
    if "testall" in layout.images:
        whole = np.load(folder / "testall_ims.npy")
        whole[: layout.images["test"]] = np.load(folder / "test_ims.npy")
        np.save(folder / "testall_ims.npy", whole)
    if layout.half:
        for path in sorted(folder.glob("*.npy")):
            convert.main(["--input", str(path), "--output", str(path.with_suffix(".h5")), "--dtype", "float16"])
            path.unlink()
    return ["--data_name", name, "--data_path", str(root / "data"), "--vocab_path", str(root / "vocab")]


def recall_at_1(sims: np.ndarray, captions_per_image: int) -> dict[str, float]:
    """Rank one matrix slowly: the share of images whose best caption is theirs, and of captions likewise."""
    i2t = [row.argmax() // captions_per_image == k for k, row in enumerate(sims)]
    t2i = [column.argmax() == k // captions_per_image for k, column in enumerate(sims.T)]
    return {"i2t": 100 * float(np.mean(i2t)), "t2i": 100 * float(np.mean(t2i))}


def evaluate(place: Path, checkpoint: Path, split: str) -> tuple[dict, np.ndarray]:
    """Return the record and the mean score matrix."""
    output, sims = place / "record.json", place / "sims.npz"
    evaluation.main(
        ["--mode_path", str(checkpoint), "--split", split, "--gpu", "cpu", "--output", str(output)]
        + ["--save_sims", str(sims)]
    )
    with np.load(sims) as arrays:
        return json.loads(output.read_text()), arrays["mean"]


def same(record: dict, expected: dict[str, float]) -> None:
    for way, value in expected.items():
        assert record[way]["R@1"] == pytest.approx(value, abs=1e-9)


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("which", LAYOUTS)
def test_a_published_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str) -> None:
    name, layout = LAYOUTS[which]
    flags = make(tmp_path, name, layout)
    rules = catalog.protocol(name)
    (tmp_path / "vocab" / f"{name}_vocab.json").unlink()
    build.main(flags)

    check.main(flags)
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "usable"
    (remark,) = (line for line in told if "numbers of images differ" in line)
    assert remark.count(f"train {layout.images['train']} ({rules.images['train']})") == 1

    output = tmp_path / "out"
    flags = tiny_flags(tmp_path, output, "--num_epochs", "1", *layout.flags, name=name)
    run.main(flags)
    (folder,) = output.iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert np.isfinite(results["test"]["mean"]["rSum"]) and results["noise"]["asked_ratio"] == (
        0 if layout.tsv else 0.2
    )

    per_image = layout.captions_per_image
    checkpoint = folder / "checkpoint_dev_best.pth.tar"
    used = {split: number for split, number in layout.images.items() if split != "train"}
    used["dev"] = min(used["dev"], rules.dev_images or used["dev"])
    assert used["dev"] < layout.images["dev"] or layout.tsv, "the rule of the first dev images is at work"
    for split, number in used.items():
        record, sims = evaluate(tmp_path, checkpoint, split)
        assert (
            (record["images"], record["captions"]) == (number, number * per_image) == sims.shape[:1] + (sims.shape[1],)
        )
        same(record["results"]["mean"], recall_at_1(sims, per_image))
        assert ("fold_results" in record) == (split == "testall")
        if split == "testall":
            parts = [
                recall_at_1(sims[k : k + FOLD_IMAGES, per_image * k : per_image * (k + FOLD_IMAGES)], per_image)
                for k in range(0, number, FOLD_IMAGES)
            ]
            assert len(parts) == 5
            folds = {way: float(np.mean([part[way] for part in parts])) for way in ("i2t", "t2i")}
            same(record["fold_results"]["mean"], folds)
            assert folds != recall_at_1(sims, per_image), "a fold is easier than the whole"


@pytest.mark.usefixtures("scaled")
def test_real_noise_takes_no_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, layout = LAYOUTS["cc152k"]
    make(tmp_path, name, layout)
    with pytest.raises(SystemExit) as stop:
        run.main(tiny_flags(tmp_path, tmp_path / "out", name=name))
    assert stop.value.code == 2 and "real noise: --noise_ratio must be 0" in capsys.readouterr().err
