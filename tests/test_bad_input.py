"""What the user gets wrong: one clear line, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import evaluation
import run
from models import matcher
from runtime.checkpoint import save_checkpoint
from tests.tiny import make_tiny_data, tiny_flags
from vocab import build
from vocab.vocabulary import SPECIAL, Vocabulary

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Tiny data of its own, to be broken."""
    return make_tiny_data(tmp_path / "own", images={"train": 10, "dev": 4, "test": 4})


@pytest.fixture
def folder(root: Path) -> Path:
    """The data set's folder."""
    return root / "data" / "tiny_precomp"


class Fails:
    """Call an entry point in this process; return the one line that it prints on the way out."""

    def __init__(self, capsys: pytest.CaptureFixture[str], output: Path) -> None:
        self.capsys, self.output = capsys, output

    def _line(self, main: Callable[[list[str]], object], argv: list[str]) -> str:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(argv)
        error = self.capsys.readouterr().err
        assert stop.value.code == 2
        assert error.startswith("error: ") and error.endswith("\n") and error.count("\n") == 1, error
        assert "Traceback" not in error and len(error) < 1000
        return error

    def run(self, root: Path, *flags: str, leaves_nothing: bool = True) -> str:
        """Train with flags that cannot work."""
        line = self._line(run.main, tiny_flags(root, self.output, *flags))
        assert not leaves_nothing or not self.output.exists() or not list(self.output.iterdir())
        return line

    def evaluation(self, *argv: str) -> str:
        """Evaluate with flags that cannot work."""
        return self._line(evaluation.main, ["--gpu", "cpu", *argv])

    def build(self, *argv: str) -> str:
        """Build a vocabulary with flags that cannot work."""
        return self._line(build.main, list(argv))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Fails:
    return Fails(capsys, tmp_path / "output")


# -- data -----------------------------------------------------------------------------------------------------------


def test_no_data_folder(fails: Fails, tmp_path: Path) -> None:
    line = fails.run(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere" / "data" / "tiny_precomp") in line
    assert "--data_path" in line and "--data_name emoji_precomp" in line and "needs none" in line


def test_places_that_are_one_level_off(
    fails: Fails, root: Path, folder: Path, checkpoint_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--data_path` may name the data set's folder, `--vocab_path` the file; another set's folder is told."""
    vocabulary = root / "vocab" / "tiny_precomp_vocab.json"
    deep = ("--data_path", str(folder), "--vocab_path", str(vocabulary))
    record = evaluation.main(["--gpu", "cpu", "--mode_path", str(checkpoint_path), *deep, "--split", "val"])
    assert record is None and "tiny_precomp dev, 4 images x 20 captions" in capsys.readouterr().out
    line = fails.run(root, "--data_path", str(folder), "--data_name", "f30k_precomp")
    assert f"give --data_path {folder.parent} --data_name tiny_precomp" in line
    assert str(root / "vocab" / "missing.json") in fails.run(root, "--vocab_path", str(root / "vocab" / "missing.json"))


Break = Callable[[Path], object]
"""Breaks the data set in its folder."""


def write(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def save(name: str, array: np.ndarray) -> Break:
    return lambda folder: np.save(folder / name, array, allow_pickle=True)


def cut(name: str, share: float) -> Break:
    return lambda folder: os.truncate(folder / name, int(share * (folder / name).stat().st_size))


def missing(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def torn_hdf5(share: float) -> Break:
    def make(folder: Path) -> None:
        with h5py.File(folder / "train_ims.h5", "w") as file:
            features = np.load(folder / "train_ims.npy")
            file.create_dataset("features", data=features, chunks=(1, 4, 12), compression="gzip")
        missing("train_ims.npy")(folder)
        cut("train_ims.h5", share)(folder)

    return make


FEATURES, CAPTIONS, VOCABULARY = "train_ims.npy", "train_caps.txt", "../../vocab/tiny_precomp_vocab.json"
CAPTION = b"a red dog\n"
BROKEN: dict[str, tuple[Break, list[str]]] = {
    **{f"no {name}": (missing(name), [name]) for name in (FEATURES, "dev_ims.npy", "test_caps.txt", CAPTIONS)},
    "no vocabulary": (missing(VOCABULARY), ["tiny_precomp_vocab.json", "--vocab_path"]),
    "a caption too many": (write(CAPTIONS, 51 * CAPTION), ["10 feature rows", FEATURES, "51 captions", CAPTIONS]),
    "more images than captions": (write(CAPTIONS, CAPTION), ["10 feature rows", "1 captions"]),
    "features are text": (save(FEATURES, np.array([["a", "b"]])), [FEATURES]),
    "features are 2-D": (save(FEATURES, np.zeros((10, 12), np.float32)), [FEATURES]),
    "features are integers": (save(FEATURES, np.zeros((10, 4, 12), np.int32)), [FEATURES]),
    "features are objects": (save(FEATURES, np.array([{}, None], dtype=object)), [FEATURES]),
    "features are all the same": (
        save(FEATURES, np.ones((10, 4, 12), np.float32)),
        [f"{FEATURES}: 10 images, evenly spread, have the same features; extract them again"],
    ),
    **{f"npy, {share} of it": (cut("test_ims.npy", share), ["test_ims.npy"]) for share in (0.0, 0.5, 0.99)},
    **{f"hdf5, {share} of it": (torn_hdf5(share), ["train_ims.h5"]) for share in (0.0, 0.5, 0.99)},
    "splits of different width": (save("dev_ims.npy", np.random.rand(4, 4, 5)), ["dev_ims.npy", FEATURES]),
    "no captions": (write(CAPTIONS, b""), [CAPTIONS, "is empty"]),
    "an empty line": (write(CAPTIONS, CAPTION + b"\n" + CAPTION), [CAPTIONS, "line 2"]),
    "latin-1": (write(CAPTIONS, CAPTION + b"ein H\xfcndchen\n"), [CAPTIONS, "line 2 is not UTF-8"]),
    "utf-16": (write(CAPTIONS, CAPTION.decode().encode("utf-16")), [CAPTIONS, "line 1 is not UTF-8"]),
    "a vocabulary of another data set": (
        lambda folder: Vocabulary([*SPECIAL, "zebra", "yak"]).save(folder / VOCABULARY),
        ["100 % of the words", "--vocab_path"],
    ),
    **{
        f"vocabulary {text}": (write(VOCABULARY, text), ["vocabulary"])
        for text in (b"", b"[]", b"{", b'{"word2idx": {"a": 0}}')
    },
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_data(fails: Fails, root: Path, folder: Path, kind: str) -> None:
    broken, expected = BROKEN[kind]
    broken(folder)
    line = fails.run(root)
    assert all(part in line for part in expected), line


@pytest.mark.parametrize(("split", "workers"), [("train", "0"), ("dev", "1"), ("test", "0")])
def test_features_that_are_no_numbers(fails: Fails, root: Path, folder: Path, split: str, workers: str) -> None:
    """They are met where they are read, so logs of the run may be there; results are not."""
    path = folder / f"{split}_ims.npy"
    features = np.load(path)
    features[2, 1, 3] = np.nan
    np.save(path, features)
    line = fails.run(root, "--workers", workers, leaves_nothing=False)
    assert f"{split}_ims.npy row 2" in line and "NaN" in line
    assert not list(fails.output.rglob("results.json")) and not list(fails.output.rglob("*.part"))
    if split != "test":
        assert not list(fails.output.rglob("*.pth.tar"))


def test_captions_without_spaces(fails: Fails, root: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every caption is a word of its own: a vocabulary of them knows no word of the test split."""
    for split, count in {"train": 50, "dev": 20, "test": 20}.items():
        lines = [f"{split}第{k}张照片里有一只红色的狗" for k in range(count)]
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = ["--data_name", "tiny_precomp", "--data_path", str(root / "data"), "--vocab_path", str(root / "vocab")]
    assert "seen 4 times; the captions have no spaces between words" in fails.build(*flags)
    build.main([*flags, "--min_count", "1", "--replace"])
    assert "warning: the captions have no spaces between words" in capsys.readouterr().out
    line = fails.run(root)
    assert "100 % of the words of" in line and "test_caps.txt: the captions have no spaces" in line


def test_a_width_that_does_not_fit(fails: Fails, root: Path) -> None:
    line = fails.run(root, "--img_dim", "2048")
    assert "--img_dim 2048" in line and "12" in line


# -- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "index",
    [np.zeros(49, np.int64), np.zeros((50, 1), np.int64), np.full(50, 10), np.full(50, -1), np.zeros(50)],
    ids=["short", "2-D", "too large", "negative", "floats"],
)
def test_noise_files_that_do_not_fit(fails: Fails, root: Path, tmp_path: Path, index: np.ndarray) -> None:
    np.save(tmp_path / "noise.npy", index)
    assert "noise.npy" in fails.run(root, "--noise_file", str(tmp_path / "noise.npy"))


def test_a_noise_file_that_cannot_be_made_or_is_not_there(fails: Fails, root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in fails.run(root, "--noise_file", str(tmp_path / "file" / "noise.npy"))
    line = fails.run(root, "--noise_ratio", "0", "--noise_file", str(tmp_path / "coco_0.4.npy"))
    assert f"--noise_file {tmp_path / 'coco_0.4.npy'} is not there" in line and "--noise_ratio" in line
    assert not list(tmp_path.glob("coco*")), "no clean index is left under the name"


def test_noise_on_real_noise(fails: Fails, tmp_path: Path) -> None:
    root = make_tiny_data(tmp_path / "cc", "cc152k_precomp", captions_per_image=1, tsv=True)
    line = fails.run(root, "--data_name", "cc152k_precomp", "--noise_ratio", "0.2")
    assert "real noise" in line and "--noise_ratio" in line


# -- flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("method", ["baseline", "ncr", "bicro", "mgcs"]),
        ("module_name", ["SGR", "SAF", "VSE"]),
        ("soft_margin", ["linear", "exponential", "sin"]),
        ("warmup_type", ["warmup", "warmup_sele", "co_teaching"]),
        ("noise_protocol", ["caption", "image"]),
    ],
)
def test_unknown_names_list_the_known_ones(fails: Fails, tiny_root: Path, name: str, known: list[str]) -> None:
    line = fails.run(tiny_root, f"--{name}", "nonsense")
    assert f"--{name} 'nonsense'" in line
    assert set(known) <= set(line.rpartition("known: ")[2].strip().split(", "))


SENSELESS = """--batch_size 1, --num_epochs 0, --num_epochs x, --learning_rate fast, --learning_rate nan,
    --learning_rate 0, --learning_rate 2e4, --embed_size 0, --embed_size 1.5, --seed -1,
    --noisy_start 1.5, --p_threshold 1, --anneal_epochs 0, --warmup_epoch -1, --warmup_rate 0,
    --dropout 1, --lr_update 0, --workers -1, --margin nan, --gpu nonsense, --gpu -1, --unknown_flag
    1, --batch 8, --seed, positional, @missing.args, --data_name ../elsewhere, --data_name ..,
    --precision half, --noise_ratio=-0.1, --noise_ratio 1, --noise_ratio nan"""


@pytest.mark.parametrize("flags", " ".join(SENSELESS.split()).split(", "))
def test_values_that_make_no_sense(fails: Fails, tiny_root: Path, flags: str) -> None:
    line = fails.run(tiny_root, *flags.split())
    assert re.split("[ =]", flags)[0].lstrip("@").removeprefix("--") in line


@pytest.mark.parametrize("kind", ["is a file", "under a file", "the run's folder is a file"])
def test_an_output_folder_that_cannot_be_written(fails: Fails, tiny_root: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "the run's folder is a file":
        target.mkdir()
        (target / "tiny_precomp_mgcs_VSE_0.2_s0").write_text("mine", encoding="utf-8")
    else:
        target.write_text("mine", encoding="utf-8")
    place = target / "sub" if kind == "under a file" else target
    line = fails.run(tiny_root, "--output_dir", str(place))
    assert f"--output_dir {place} cannot be written" in line
    file = target / "tiny_precomp_mgcs_VSE_0.2_s0" if target.is_dir() else target
    assert file.read_text(encoding="utf-8") == "mine"


# -- checkpoints ----------------------------------------------------------------------------------------------------


def broken_checkpoint(kind: str, good: Path, folder: Path) -> Path:
    """Write a file that is no checkpoint of ours."""
    path = folder / "broken.pth.tar"
    if kind == "text":
        path.write_text("this is not a checkpoint\n", encoding="utf-8")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    elif kind == "list":
        torch.save([1, 2, 3], path)
    elif kind == "other dict":
        torch.save({"epoch": 3, "model": [{}]}, path)
    elif kind == "npy":
        np.save(folder / "x.npy", np.zeros(3))
        path.write_bytes((folder / "x.npy").read_bytes())
    return path


KINDS = ["text", "empty", "truncated", "list", "other dict", "npy", "missing"]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluating_what_is_no_checkpoint(fails: Fails, checkpoint_path: Path, tmp_path: Path, kind: str) -> None:
    path = broken_checkpoint(kind, checkpoint_path, tmp_path)
    line = fails.evaluation("--mode_path", str(path))
    assert str(path) in line and "checkpoint" in line
    assert str(path) in fails.evaluation("--mode_path", str(checkpoint_path), "--mode_path1", str(path))


@pytest.mark.parametrize("flag", ["--saved_model", "--warmup_model_path"])
def test_starting_from_what_does_not_fit(
    fails: Fails, tiny_root: Path, root: Path, checkpoint_path: Path, tmp_path: Path, flag: str
) -> None:
    path = broken_checkpoint("truncated", checkpoint_path, tmp_path)
    assert str(path) in fails.run(tiny_root, flag, str(path))
    for flags in (["--embed_size", "24"], ["--module_name", "SGR"], ["--num_layers", "2"]):
        line = fails.run(tiny_root, flag, str(checkpoint_path), *flags)
        assert str(checkpoint_path) in line and "does not fit" in line
    line = fails.run(tiny_root, flag, str(checkpoint_path), "--no_co_training")
    assert "2 network(s)" in line and "--no_co_training" in line
    path = root / "vocab" / "tiny_precomp_vocab.json"
    Vocabulary([*Vocabulary.load(path).words, "zebra"]).save(path)
    assert "vocabulary" in fails.run(root, flag, str(checkpoint_path))


def edited(path: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Write a changed copy of a checkpoint."""
    content = torch.load(path, weights_only=True)
    edit(content)
    save_checkpoint(target, {k: v for k, v in content.items() if k != "format"})
    return target


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["config"]["matcher"].update(embed_size=99),
        lambda c: c["config"]["matcher"].update(module_name="nonsense"),
        lambda c: c["config"]["shape"].pop("region_dim"),
        lambda c: c["networks"][0].popitem(),
        lambda c: c["networks"].clear(),
        lambda c: c.update(config=None),
    ],
    ids=["size", "module", "shape", "weights", "no network", "no config"],
)
def test_a_damaged_checkpoint(
    fails: Fails, checkpoint_path: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    path = edited(checkpoint_path, tmp_path / "damaged.pth.tar", edit)
    assert fails.evaluation("--mode_path", str(path))


# -- evaluation -----------------------------------------------------------------------------------------------------


def test_evaluation_of_a_runs_folder_or_of_one_checkpoint_twice(
    fails: Fails, tmp_path: Path, trained_folder: Path, checkpoint_path: Path
) -> None:
    assert "--mode_path" in fails.evaluation()
    line = fails.evaluation("--mode_path", str(trained_folder))
    assert f"{trained_folder}, which is a folder; give the checkpoint itself: {checkpoint_path}" in line
    assert f"{tmp_path}, which is a folder; it holds no checkpoint" in fails.evaluation("--mode_path", str(tmp_path))
    dotted = checkpoint_path.parent / ".." / trained_folder.name / checkpoint_path.name
    for twice in ((str(checkpoint_path), "--mode_path1", str(dotted)), (f"{dotted},{checkpoint_path}",)):
        assert f"name {checkpoint_path} 2 times" in fails.evaluation("--mode_path", *twice)


def test_evaluation_on_another_width(fails: Fails, tmp_path: Path, checkpoint_path: Path) -> None:
    other = make_tiny_data(tmp_path / "wide", dims=13)
    line = fails.evaluation("--mode_path", str(checkpoint_path), "--data_path", str(other / "data"))
    assert "4 regions x 12 dimensions" in line and "4 x 13" in line


def test_evaluation_with_another_vocabulary(fails: Fails, root: Path, checkpoint_path: Path) -> None:
    path = root / "vocab" / "tiny_precomp_vocab.json"
    words = Vocabulary.load(path).words
    Vocabulary([*words[:4], *reversed(words[4:])]).save(path)
    line = fails.evaluation("--mode_path", str(checkpoint_path), "--vocab_path", str(root / "vocab"))
    assert str(path) in line and "--vocab_path" in line


@pytest.mark.parametrize("flag", ["--output", "--save_sims"])
@pytest.mark.parametrize("kind", ["missing folder", "a folder", "under a file"])
def test_evaluation_into_a_place_that_cannot_be_written(
    fails: Fails, checkpoint_path: Path, tmp_path: Path, flag: str, kind: str
) -> None:
    (tmp_path / "file").touch()
    target = {"missing folder": tmp_path / "no" / "x", "a folder": tmp_path, "under a file": tmp_path / "file" / "x"}
    before = sorted(tmp_path.parent.rglob("*"))
    line = fails.evaluation("--mode_path", str(checkpoint_path), flag, str(target[kind]))
    assert str(target[kind]) in line
    assert sorted(tmp_path.parent.rglob("*")) == before


WRONG = (
    "--split nonsense, --gpu nonsense, --data_name missing_precomp, --data_path missing, --vocab_path missing, --x 1"
)


@pytest.mark.parametrize("flags", WRONG.split(", "))
def test_evaluation_flags_that_make_no_sense(fails: Fails, checkpoint_path: Path, flags: str) -> None:
    line = fails.evaluation("--mode_path", str(checkpoint_path), *flags.split())
    assert any(word in line for word in flags.split())


@pytest.mark.parametrize("module", ["VSE", "SGR"])
def test_bfloat16_where_there_is_none(
    fails: Fails, tiny_root: Path, checkpoint_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setattr(matcher, "bf16_is_supported", lambda device: False)
    for line in (
        fails.run(tiny_root, "--precision", "bf16", "--module_name", module),
        fails.evaluation("--mode_path", str(checkpoint_path), "--precision", "bf16"),
    ):
        assert "--precision bf16" in line and "fp32" in line


def test_two_checkpoints_of_different_data(fails: Fails, root: Path, checkpoint_path: Path, tmp_path: Path) -> None:
    data = {"data_path": str(root / "data")}
    other = edited(checkpoint_path, tmp_path / "other.pth.tar", lambda c: c["config"]["data"].update(data))
    line = fails.evaluation("--mode_path", str(checkpoint_path), "--mode_path1", str(other))
    assert "other.pth.tar evaluates on other pairs than" in line


# -- building a vocabulary ------------------------------------------------------------------------------------------


def test_building_a_vocabulary(fails: Fails, root: Path, folder: Path, tmp_path: Path) -> None:
    data = ["--data_path", str(root / "data")]
    assert "missing_precomp" in fails.build(*data, "--data_name", "missing_precomp")
    assert "--min_count" in fails.build(*data, "--data_name", "tiny_precomp", "--min_count", "0")
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "vocab")
    assert place in fails.build(*data, "--data_name", "tiny_precomp", "--vocab_path", place)
    (folder / "dev_caps.txt").unlink()
    assert "dev_caps.txt" in fails.build(*data, "--data_name", "tiny_precomp")


# -- as a process ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run.py", "--data_name", "emoji_precmp"], "no data set 'emoji_precmp': did you mean emoji_precomp?"),
        (["evaluation.py", "--gpu", "cpu", "--mode_path", "text.pth.tar"], "text.pth.tar is not a checkpoint"),
    ],
    ids=["no data", "no checkpoint"],
)
def test_a_process_shows_no_traceback(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "text.pth.tar").write_text("this is not a checkpoint", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / arguments[0]), *arguments[1:]],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and all(line.endswith(" ...") for line in done.stdout.splitlines())
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["text.pth.tar"]
