"""Readers of the tools: embeddings, similarities, truths, lists of pictures, boxes, pictures, states of CLIP runs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from data_utils.noise import NoiseConfig, inject
from runtime.checkpoint import save_checkpoint
from tests.fuzz.readers import SUITE_READERS, Prepared, Reader, hdf5_bytes, npy_bytes
from tools.clip_tuning.config import parse_args
from tools.clip_tuning.model import SETTINGS, CLIPModel, Preprocessing
from tools.clip_tuning.pairs import read_pairs
from tools.clip_tuning.trainer import CONFIG, STATE, RunState, latest_run, load_state
from tools.extract.listing import read_listing
from tools.extract.regions import check_inside, chosen_boxes, read_boxes
from tools.filter.__main__ import CleanConfig, pair_similarities
from tools.filter.files import Stored, open_embeddings, read_truth
from tools.filter.filtering import EmbeddingPairs
from tools.picture_files import Image, picture_files, thumbnails

# -- files that need nothing beside them: name, format, valid files ----------------------------------------------------

ROWS = np.random.RandomState(1).randn(5, 4).astype(np.float32)
COSINES = np.array([0.5, -0.25, 0.75, 0.125, 1.0])
TRUTH = np.array([1, 0, 1, 1, 1], dtype=np.uint8)


def _embeddings(path: Path) -> None:
    opened: Stored = open_embeddings(str(path))
    opened[0 : len(opened)]
    EmbeddingPairs.open(str(path), str(path)).similarity()


def _similarities(path: Path) -> None:
    pair_similarities(CleanConfig(similarities=str(path), output="x"), None)


def _truth(path: Path) -> None:
    read_truth(str(path), len(TRUTH))


def _listing(path: Path) -> None:
    listing = read_listing(path, "train")
    ("\n".join(caption for own in listing.captions for caption in own) + "\n".join(listing.pictures)).encode()


def _boxes(path: Path) -> None:
    found = chosen_boxes(read_boxes(path), ("a.png", "b.png"), path, None)
    check_inside(found["a.png"], "a.png", 10, 8)


def _safetensors(**arrays: np.ndarray) -> bytes:
    return save({name: torch.from_numpy(array) for name, array in arrays.items()})


PACKED = {"data": ROWS, "chunks": (2, 4), "compression": "gzip"}
BOX_ROWS = [{"image": n, "x1": 0, "y1": 1, "x2": 5, "y2": 5.5} for n in ("a.png", "b.png")]
COCO = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "x"}]}
KARPATHY = {"images": [{"filename": "a.png", "filepath": "v", "split": "train", "sentences": [{"raw": "x"}]}]}
PAIR_ROWS = [{"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": ["y"], "split": "train"}]
PAIR_LISTS = {"image": ["a.png", "b.png"], "caption": ["x", "y", "z", "w"]}
ALONE: dict[str, tuple[Callable[[Path], None], list[bytes | str | object]]] = {
    "embeddings.npy": (_embeddings, [npy_bytes(a) for a in (ROWS, np.asfortranarray(ROWS), ROWS.astype("f2"))]),
    "embeddings.h5": (_embeddings, [hdf5_bytes(rows=ROWS, lengths=TRUTH), hdf5_bytes(**{"a/b": PACKED})]),
    "embeddings.safetensors": (
        _embeddings,
        [_safetensors(rows=ROWS, lengths=TRUTH), _safetensors(rows=ROWS.astype("f8"))],
    ),
    "similarities.npy": (_similarities, [npy_bytes(COSINES), npy_bytes(COSINES.astype("f2"))]),
    "similarities.h5": (_similarities, [hdf5_bytes(cosines=COSINES)]),
    "similarities.safetensors": (_similarities, [_safetensors(cosines=COSINES)]),
    "similarities.txt": (_similarities, ["0.5\n-0.25\n0.75\n0.125\n1.0\n", "similarity\r\n0.5\r\n-0.25\r\n"]),
    "similarities.csv": (_similarities, ["similarity\n0.5\n-0.25\n1\n", "0.5\n0.25\n\n"]),
    "truth.csv": (_truth, ["1\n0\n1\n1\n1\n", "is_matched\ntrue\nfalse\nTRUE\n1\n0\n"]),
    "truth.npy": (_truth, [npy_bytes(a) for a in (TRUTH, TRUTH == 1, TRUTH.astype("f4"))]),
    "listing.csv": (
        _listing,
        [
            "image,caption\na.png,a red dog\na.png,two cats\nb.png,one\nb.png,x\n",
            "image|comment_number|comment\na.png|0|x y\n",
        ],
    ),
    "listing.tsv": (_listing, ["image\tcaption\tsplit\na.png\ta dog\ttrain\nb.png\tcat\tval\n"]),
    "listing.txt": (_listing, ["a.png#0\ta red dog\na.png#1\ttwo\nb.png#0\tx\nb.png#1\ty\n"]),
    "listing.json": (_listing, [{"a.png": ["x", "y"], "b.png": ["z", "w"]}, PAIR_ROWS, COCO, KARPATHY, PAIR_LISTS]),
    "boxes.json": (
        _boxes,
        [{"a.png": [[0, 0, 5, 6], [1, 1, 2, 2.5]], "b.png": [[0, 0, 8, 8], [2, 2, 3, 3]]}, BOX_ROWS],
    ),
    "boxes.csv": (_boxes, ["image,x1,y1,x2,y2,score\na.png,0,0,5,6,0.5\nb.png,1,1,2,2,0.5\n"]),
}
KINDS = {".npy": "npy", ".h5": "hdf5", ".safetensors": "safetensors", ".json": "json"}


def _encoded(samples: list[bytes | str | object]) -> list[bytes]:
    texts = [sample if isinstance(sample, (bytes, str)) else json.dumps(sample) for sample in samples]
    return [text.encode() if isinstance(text, str) else text for text in texts]


def _alone(folder: Path, file: str) -> Prepared:
    read, samples = ALONE[file]
    return Prepared(_encoded(samples), read)


# -- pictures and CLIP runs, which need optional packages --------------------------------------------------------------

CLIP_PAIRS: dict[str, list[bytes | str | object]] = {
    "pairs.csv": ["image,caption\na.png,a red dog\nb.png,two cats\n"],
    "pairs.json": [[{k: v for k, v in row.items() if k != "split"} for row in PAIR_ROWS], PAIR_LISTS],
}


def picture_bytes(form: str, shape: tuple[int, int] = (8, 10)) -> bytes:
    """Return a picture file."""
    pixels = np.random.RandomState(2).randint(0, 255, (*shape, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def _clip_pairs(folder: Path, file: str) -> Prepared:
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(picture_bytes("PNG"))

    def read(path: Path) -> None:
        pairs = read_pairs(path, "train")
        inject(NoiseConfig(), pairs.image_of_caption)
        for number in range(min(2, pairs.num_images)):
            pairs.pictures.pixels(number)

    return Prepared(_encoded(CLIP_PAIRS[file]), read)


def _thumbnails(folder: Path) -> Prepared:
    """Encoded pictures in HDF5."""
    files = [picture_bytes("WEBP"), picture_bytes("WEBP", (4, 4))]
    offsets = np.cumsum([0, *map(len, files)])
    encoded = {"train/bytes": np.frombuffer(b"".join(files), np.uint8), "train/offsets": offsets}

    def read(path: Path) -> None:
        found = thumbnails(path, "train")
        for number in range(min(len(found), 3)):
            found.pixels(number)

    return Prepared([hdf5_bytes(**encoded)], read)


def _pictures(folder: Path) -> Prepared:
    forms = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
    return Prepared([picture_bytes(form) for form in forms], lambda path: picture_files([path]).pixels(0))


def _clip_config(folder: Path) -> Prepared:
    """The settings of a run that is gone on with."""
    given = parse_args(["--clip", str(folder), "--output_dir", str(folder)])
    place = folder / given.run_name()
    place.mkdir()
    (place / STATE).touch()

    def read(path: Path) -> None:
        (place / CONFIG).write_bytes(path.read_bytes())
        latest_run(given)

    return Prepared([json.dumps(asdict(given), indent=2).encode()], read)


def _clip_state(folder: Path) -> Prepared:
    network = {"a.weight": torch.zeros(3, 4), "b": torch.ones(2)}
    optimiser = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"run": vars(RunState()), "network": network, "optimiser": optimiser, "filtered": None, "random": []}
    save_checkpoint(folder / STATE, content)
    return Prepared([(folder / STATE).read_bytes()], lambda path: load_state(folder))


def _preprocessor(folder: Path) -> Prepared:
    """How a model's pictures are prepared."""
    Preprocessing.square(24).processor.save_pretrained(folder)

    def read(path: Path) -> None:
        found = Preprocessing.load(folder, 24)
        found.normalise(found.prepare(np.zeros((8, 10, 3), np.uint8))[None])

    return Prepared([(folder / SETTINGS[0]).read_bytes()], read)


def _of_texts(prefix: str, file: str, prepare: Callable[[Path], Prepared], where: str | None) -> Reader:
    kind = KINDS.get(Path(file).suffix, "text")
    return Reader(prefix + file.replace(".", "_"), file, kind, prepare, where=where)


TOOL_READERS = [
    _of_texts("", file, partial(_alone, file=file), "" if file.startswith("boxes") else None) for file in ALONE
]
if Image is not None:
    TOOL_READERS += [
        *(_of_texts("clip_", file, partial(_clip_pairs, file=file), "") for file in CLIP_PAIRS),
        Reader("pictures", "picture.png", "bytes", _pictures),
        Reader("thumbnails", "thumbnails.h5", "hdf5", _thumbnails),
        Reader("clip_config", "config.json", "json", _clip_config, where=""),
        Reader("clip_state", STATE, "zip", _clip_state, cost=2),
    ]
if CLIPModel is not None:
    TOOL_READERS += [Reader("clip_preprocessor", SETTINGS[0], "json", _preprocessor)]
READERS = {reader.name: reader for reader in (*SUITE_READERS, *TOOL_READERS)}
