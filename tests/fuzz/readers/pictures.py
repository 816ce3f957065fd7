"""Readers of pictures, lists of pictures, boxes, and of what CLIP runs keep; some need an optional package."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from data_utils.noise import NoiseConfig
from data_utils.pictures import Image, picture_files, thumbnails
from runtime.checkpoint import save_checkpoint
from tests.fuzz.readers.data import hdf5_bytes
from tests.fuzz.trial import Prepared, Reader
from tools.clip_tuning.config import ClipRunConfig, parse_args, resumed
from tools.clip_tuning.pairs import inject_noise, read_pairs
from tools.clip_tuning.processing import SETTINGS, CLIPModel, Preprocessing
from tools.clip_tuning.setup import STATE, RunState, load_state
from tools.extract.boxes import check_inside, chosen_boxes, read_boxes
from tools.extract.listing import read_listing

LISTINGS = {
    "listing.csv": [
        "image,caption\na.png,a red dog\na.png,two cats\nb.png,one\nb.png,more\n",
        "image|comment_number|comment\na.png|0|x y\n",
    ],
    "listing.tsv": ["image\tcaption\tsplit\na.png\ta dog\ttrain\nb.png\tcat\tval\n"],
    "listing.txt": ["a.png#0\ta red dog\na.png#1\ttwo\nb.png#0\tx\nb.png#1\ty\n"],
    "listing.json": [
        json.dumps({"a.png": ["x", "y"], "b.png": ["z", "w"]}),
        json.dumps([{"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": ["y"], "split": "train"}]),
        json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "x"}]}),
        json.dumps({"images": [{"filename": "a.png", "filepath": "v", "split": "train", "sentences": [{"raw": "x"}]}]}),
        json.dumps({"image": ["a.png", "b.png"], "caption": ["x", "y", "z", "w"]}),
    ],
}
BOXES = {
    "boxes.json": [
        json.dumps({"a.png": [[0, 0, 5, 6], [1, 1, 2, 2.5]], "b.png": [[0, 0, 8, 8], [2, 2, 3, 3]]}),
        json.dumps([{"image": n, "x1": 0, "y1": 1, "x2": 5, "y2": 5.5} for n in ("a.png", "b.png")]),
    ],
    "boxes.csv": ["image,x1,y1,x2,y2,score\na.png,0,0,5,6,0.5\nb.png,1,1,2,2,0.5\n"],
}
PAIRS = {
    "pairs.csv": ["image,caption\na.png,a red dog\nb.png,two cats\n"],
    "pairs.json": [
        json.dumps([{"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": ["y"]}]),
        json.dumps({"image": ["a.png", "b.png"], "caption": ["x", "y", "z", "w"]}),
    ],
}


def picture_bytes(form: str, shape: tuple[int, int] = (8, 10)) -> bytes:
    """Return a picture file."""
    pixels = np.random.RandomState(2).randint(0, 255, (*shape, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def _encoded(texts: list[str]) -> list[bytes]:
    return [text.encode() for text in texts]


def prepare_pairs(folder: Path, texts: list[str]) -> Prepared:
    """Files of pairs for CLIP."""
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(picture_bytes("PNG"))

    def read(path: Path) -> None:
        pairs = read_pairs(path, "train")
        inject_noise(pairs, NoiseConfig(), "tiny")
        for number in range(min(2, pairs.num_images)):
            pairs.pictures.pixels(number)

    return Prepared(_encoded(texts), read)


def _listing(path: Path) -> None:
    listing = read_listing(path, "train")
    ("\n".join(caption for own in listing.captions for caption in own) + "\n".join(listing.pictures)).encode()


def _boxes(path: Path) -> None:
    found = chosen_boxes(read_boxes(path), ("a.png", "b.png"), path, None)
    check_inside(found["a.png"], "a.png", 10, 8)


def prepare_thumbnails(folder: Path) -> Prepared:
    """Encoded pictures in HDF5."""
    files = [picture_bytes("WEBP"), picture_bytes("WEBP", (4, 4))]
    encoded = {
        "train/bytes": np.frombuffer(b"".join(files), np.uint8),
        "train/offsets": np.cumsum([0, *map(len, files)]),
    }

    def read(path: Path) -> None:
        found = thumbnails(path, "train")
        for number in range(min(len(found), 3)):
            found.pixels(number)

    return Prepared([hdf5_bytes(**encoded)], read)


def prepare_pictures(folder: Path) -> Prepared:
    """Picture files."""
    forms = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
    return Prepared([picture_bytes(form) for form in forms], lambda path: picture_files([path]).pixels(0))


def _tiny_arguments(folder: Path) -> ClipRunConfig:
    return parse_args(["--clip", str(folder), "--output_dir", str(folder)])


def prepare_clip_config(folder: Path) -> Prepared:
    """The settings of a run that is gone on with."""
    given = parse_args(["--resume", str(folder)])
    told = asdict(_tiny_arguments(folder))

    def read(path: Path) -> None:
        resumed(given, ClipRunConfig.read(path), folder)

    return Prepared([json.dumps(told, indent=2).encode()], read)


def prepare_clip_state(folder: Path) -> Prepared:
    """The state of a CLIP run."""
    network = {"a.weight": torch.zeros(3, 4), "b": torch.ones(2)}
    optimiser = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"run": vars(RunState()), "network": network, "optimiser": optimiser, "filtered": None, "random": []}
    save_checkpoint(folder / STATE, content)
    return Prepared([(folder / STATE).read_bytes()], lambda path: load_state(folder))


def prepare_preprocessor(folder: Path) -> Prepared:
    """How a model's pictures are prepared."""
    Preprocessing.square(24).processor.save_pretrained(folder)
    sample = (folder / SETTINGS[0]).read_bytes()

    def read(path: Path) -> None:
        found = Preprocessing.load(folder, 24)
        found.normalise(found.prepare(np.zeros((8, 10, 3), np.uint8))[None])

    return Prepared([sample], read)


def _texts(texts: list[str], read: Callable[[Path], object]) -> Callable[[Path], Prepared]:
    return lambda folder: Prepared(_encoded(texts), read)


def _pairs(texts: list[str]) -> Callable[[Path], Prepared]:
    return lambda folder: prepare_pairs(folder, texts)


def _kind(name: str) -> str:
    return "json" if name.endswith(".json") else "text"


READERS = [
    *(Reader(name.replace(".", "_"), name, _kind(name), _texts(texts, _listing)) for name, texts in LISTINGS.items()),
    *(
        Reader(name.replace(".", "_"), name, _kind(name), _texts(texts, _boxes), where="")
        for name, texts in BOXES.items()
    ),
]
if Image is not None:
    READERS += [
        *(
            Reader("clip_" + name.replace(".", "_"), name, _kind(name), _pairs(texts), where="")
            for name, texts in PAIRS.items()
        ),
        Reader("pictures", "picture.png", "bytes", prepare_pictures),
        Reader("thumbnails", "thumbnails.h5", "hdf5", prepare_thumbnails),
        Reader("clip_config", "config.json", "json", prepare_clip_config, where=""),
        Reader("clip_state", STATE, "zip", prepare_clip_state, cost=2),
    ]
if CLIPModel is not None:
    READERS += [Reader("clip_preprocessor", SETTINGS[0], "json", prepare_preprocessor)]
