"""Bad inputs of issue 3, DSDMR: embeddings, similarities, pictures and weights of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.bad_inputs.case import ACCEPTED, REFUSED, Case, Workshop, save_pictures
from methods.blocks import gaussian_modes, similarity_modes
from tests.tools.clip_tuning.made_up import tiny_clip
from tests.tools.filter.made_up import flags, make, save

ISSUE = "3. DSDMR"
CLIP = ("transformers", "PIL")
TINY = [
    *("--picture_size", "24", "--patch_size", "12", "--vision_width", "32", "--vision_layers", "1"),
    *("--text_width", "32", "--text_layers", "1", "--heads", "2", "--embed_size", "16", "--vocab_size", "540"),
    *("--max_tokens", "16", "--batch_size", "8", "--num_epochs", "1", "--gpu", "cpu", "--pretrain_epochs", "1"),
]


def _captions(array: np.ndarray) -> Callable[[Workshop], list[object]]:
    def prepare(w: Workshop) -> list[object]:
        names = save(make(100), w.folder)
        np.save(names["captions"], array)
        return [*flags(names, w.output)]

    return prepare


def _a_zero_vector(w: Workshop) -> list[object]:
    names = save(make(100), w.folder)
    images = np.load(names["images"])
    images[57] = 0
    np.save(names["images"], images)
    return [*flags(names, w.output)]


def _similarities(values: np.ndarray) -> Callable[[Workshop], list[object]]:
    def prepare(w: Workshop) -> list[object]:
        np.save(w.folder / "s.npy", values)
        return [*flags({"similarities": str(w.folder / "s.npy")}, w.output)]

    return prepare


def _one_round(w: Workshop) -> list[object]:
    """Two modes that lie apart, and a fit that is broken off: by itself it takes a few of its 500 rounds."""
    for module in (gaussian_modes, similarity_modes):
        w.open_for(mock.patch.object(module, "ROUNDS", 1))
    random = np.random.default_rng(0)
    np.save(w.folder / "s.npy", np.where(random.random(2000) < 0.4, 0.17, 0.3) + 0.04 * random.normal(size=2000))
    return [*flags({"similarities": str(w.folder / "s.npy")}, w.output)]


def _pairs(content: object) -> Callable[[Workshop], list[object]]:
    def prepare(w: Workshop) -> list[object]:
        return _clip(w, _written(w.folder / "train.json", content), "tiny")

    return prepare


def _written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _clip(w: Workshop, train: Path, model: str) -> list[object]:
    """Return the arguments of CLIP tuning with these training pairs."""
    held_out = [f for split in ("dev", "test") for f in (f"--{split}_pairs", train)]
    return ["--clip", model, "--train_pairs", train, *held_out, "--output_dir", w.output, *TINY]


def _other_weights(w: Workshop) -> list[object]:
    """A CLIP folder whose settings tell of a layer that its weights have not."""
    folder, pictures = w.folder / "clip", w.folder / "pictures"
    tiny_clip().save(folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["vision_config"]["num_hidden_layers"] += 1
    _written(folder / "config.json", settings)
    pictures.mkdir()
    names = save_pictures(pictures, 12)
    return _clip(w, _written(pictures / "train.json", {"image": names, "caption": [["red"]] * 12}), str(folder))


UNEQUAL = {"image": ["a.png", "b.png"], "caption": [["x"]] * 3}
MISSING = {"image": ["a.png", "c.png"], "caption": [["x"]] * 2}


def _clean(wrong: str, prepare: Callable[[Workshop], list[object]], told: str, code: int = REFUSED) -> Case:
    return Case(ISSUE, wrong, "tools.filter", prepare, told, code)


CASES = [
    _clean("embeddings of other counts", _captions(np.ones((99, 32), np.float32)), "100 rows.*99.*1 caption an image"),
    _clean("embeddings of other widths", _captions(np.ones((100, 31), np.float32)), "32 dimensions.*31"),
    _clean("a vector of zeros", _a_zero_vector, "images.npy row 57 .*all zeros"),
    _clean("similarities outside [-1, 1]", _similarities(100 * np.linspace(0.1, 0.9, 50)), r"outside.*--logit_scale"),
    _clean("fewer than 10 pairs", _similarities(np.linspace(0.1, 0.9, 9)), "9 pairs"),
    _clean("a mixture that does not converge (in 1 round)", _one_round, "warning: .*did not converge", ACCEPTED),
    Case(
        ISSUE,
        "JSON lists of unequal length",
        "tools.clip_tuning",
        _pairs(UNEQUAL),
        "has 2 entries and .* has 3",
        needs=CLIP,
    ),
    Case(
        ISSUE,
        "pictures missing",
        "tools.clip_tuning",
        _pairs(MISSING),
        r"2 of 2 pictures are missing.*a\.png",
        needs=CLIP,
    ),
    Case(
        ISSUE,
        "weights that do not fit the model",
        "tools.clip_tuning",
        _other_weights,
        r"is missing.* more\)",
        needs=CLIP,
    ),
]
