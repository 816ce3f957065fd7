"""Bad inputs of issue 1, the main job: data, noise, flags, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.bad_inputs.case import Case, Workshop
from tests.tiny import make_tiny_data
from vocab.vocabulary import SPECIAL, Vocabulary

ISSUE = "1. main job"
Make = Callable[[Workshop], list[object]]


def _without(name: str) -> Make:
    def prepare(w: Workshop) -> list[object]:
        (w.data / name).unlink()
        return [*w.flags()]

    return prepare


def _features(array: np.ndarray) -> Make:
    def prepare(w: Workshop) -> list[object]:
        np.save(w.data / "train_ims.npy", array)
        return [*w.flags()]

    return prepare


def _captions(content: bytes) -> Make:
    def prepare(w: Workshop) -> list[object]:
        (w.data / "train_caps.txt").write_bytes(content)
        return [*w.flags()]

    return prepare


def _noise(index: np.ndarray) -> Make:
    def prepare(w: Workshop) -> list[object]:
        np.save(w.folder / "noise.npy", index)
        return [*w.flags("--noise_file", str(w.folder / "noise.npy"))]

    return prepare


def _flags(*extra: str) -> Make:
    return lambda w: [*w.flags(*extra)]


def _one_caption_more(w: Workshop) -> list[object]:
    path = w.data / "train_caps.txt"
    path.write_bytes(path.read_bytes() + b"a red dog\n")
    return [*w.flags()]


def _not_a_number(w: Workshop) -> list[object]:
    features = np.load(w.data / "train_ims.npy")
    features[2, 1, 3] = np.nan
    np.save(w.data / "train_ims.npy", features)
    return [*w.flags()]


def _another_vocabulary(w: Workshop) -> list[object]:
    Vocabulary([*SPECIAL, "zebra", "yak"]).save(w.root / "vocab" / "tiny_precomp_vocab.json")
    return [*w.flags()]


def _under_a_file(w: Workshop) -> list[object]:
    (w.folder / "file").touch()
    return [*w.flags("--output_dir", str(w.folder / "file"))]


def _no_checkpoint(flag: str) -> Make:
    def prepare(w: Workshop) -> list[object]:
        path = w.folder / "text.pth.tar"
        path.write_text("this is not a checkpoint\n", encoding="utf-8")
        return [*w.flags(flag, str(path))] if flag != "--mode_path" else [flag, path, "--gpu", "cpu"]

    return prepare


def _other_dimensions(w: Workshop) -> list[object]:
    root = make_tiny_data(w.folder / "wide", dims=13)
    return ["--mode_path", w.checkpoint, "--data_path", root / "data", "--gpu", "cpu"]


def _folder_missing(w: Workshop) -> list[object]:
    place: Path = w.folder / "nowhere"
    return [*w.flags("--data_path", str(place))]


def _run(wrong: str, prepare: Make, told: str) -> Case:
    return Case(ISSUE, wrong, "run.py", prepare, told)


NAMES = {
    "method": "baseline.*mgcs",
    "fit_type": "bmm.*gmm|gmm.*bmm",
    "module_name": "SGR.*SAF",
    "soft_margin": "linear.*exponential.*sin|exponential.*linear.*sin",
}
CASES = [
    _run("data folder missing", _folder_missing, "nowhere/tiny_precomp.*--data_name emoji_precomp.* needs none"),
    _run("features of a split missing", _without("dev_ims.npy"), "dev_ims"),
    _run("captions of a split missing", _without("test_caps.txt"), "test_caps"),
    _run("counts that do not divide", _one_caption_more, "10 feature rows.* 51 captions"),
    _run("features of text", _features(np.array([["a", "b"]])), "train_ims.npy"),
    _run("features of one dimension", _features(np.zeros(10, np.float32)), "train_ims.npy"),
    _run("a NaN in the features", _not_a_number, "train_ims.npy row 2.*NaN"),
    _run("caption file empty", _captions(b""), "train_caps.txt is empty"),
    _run("a caption empty", _captions(b"a red dog\n\na red dog\n"), "train_caps.txt line 2"),
    _run("captions not UTF-8", _captions(b"a red dog\nein H\xfcndchen\n"), "line 2 is not UTF-8"),
    _run("vocabulary of another data set", _another_vocabulary, "100 % of the words.*--vocab_path"),
    *(
        _run(f"--noise_ratio {ratio}", _flags(f"--noise_ratio={ratio}"), "--noise_ratio")
        for ratio in ("-0.1", "1", "nan")
    ),
    _run("noise file of another length", _noise(np.zeros(49, np.int64)), "noise.npy"),
    _run("noise file with an index out of range", _noise(np.full(50, 10)), "noise.npy"),
    *(_run(f"unknown --{name}", _flags(f"--{name}", "nonsense"), told) for name, told in NAMES.items()),
    _run("--batch_size 1", _flags("--batch_size", "1"), "--batch_size 1 .*at least 2"),
    _run("--num_epochs 0 without a checkpoint", _flags("--num_epochs", "0"), "--num_epochs 0 needs a checkpoint"),
    _run("output folder that cannot be written", _under_a_file, "--output_dir .* cannot be written"),
    _run("--saved_model that is no checkpoint", _no_checkpoint("--saved_model"), "text.pth.tar is not a checkpoint"),
    _run(
        "--saved_model of other dimensions",
        lambda w: [*w.flags("--saved_model", str(w.checkpoint), "--embed_size", "24")],
        "does not fit this run: .* use the network flags",
    ),
    Case(
        ISSUE,
        "--mode_path that is no checkpoint",
        "evaluation.py",
        _no_checkpoint("--mode_path"),
        "text.pth.tar is not a checkpoint",
    ),
    Case(ISSUE, "data of other dimensions", "evaluation.py", _other_dimensions, "4 regions x 12 .*4 x 13"),
]
