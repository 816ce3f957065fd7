"""Readers of data sets, checkpoints, states and results of runs, and of what tools read, with valid files to mutate.

Each is made in a folder: it writes what it needs beside its file, and says which files are valid and how one is read,
down to the last number.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save

from benchmarks import robustness
from data_utils.captions import read_captions
from data_utils.noise import (
    NoiseConfig,
    NoiseReport,
    inject,
    measure,
    read_index,
    save_index,
)
from data_utils.precomputed import PrecomputedSplit
from data_utils.regions import RegionFile
from evaluation import ground_truth
from models.ensemble import restore
from runtime.checkpoint import FORMAT, description, load_checkpoint, provenance, provenance_lines, save_checkpoint
from runtime.errors import InputError
from runtime.legacy import misfits, to_legacy
from runtime.log import RunLog
from tests.runtime.lineage import SHAPE, SIZES, lineage_content, small_matcher
from tests.tools.convert.bottom_up_files import write_tsv
from tests.tools.test_table import evaluation_record, run_record
from tools.clip_tuning import config as clip
from tools.clip_tuning.model import SETTINGS, CLIPModel, Preprocessing
from tools.clip_tuning.pairs import read_pairs
from tools.clip_tuning.trainer import CONFIG, STATE, RunState, latest_run, load_state
from tools.convert.bottom_up import BottomUpFile
from tools.extract.listing import read_listing
from tools.extract.regions import check_inside, chosen_boxes, read_boxes
from tools.filter.__main__ import CleanConfig, pair_similarities
from tools.filter.files import Stored, open_embeddings, read_truth
from tools.filter.filtering import EmbeddingPairs
from tools.noise import disagreements, read_sidecar
from tools.picture_files import Image, picture_files, thumbnails
from tools.table import FORMATS, TableConfig, build
from training.checkpointing import STATES, SavedState
from training.config import RunConfig, parse_args
from vocab import word_vectors
from vocab.vocabulary import SPECIAL, Vocabulary


@dataclass(frozen=True)
class Prepared:
    """A reader in a folder: contents of valid files, and what reads the file at a path as the suite would."""

    samples: list[bytes]
    read: Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """A reader of files of the user's.

    Attributes:
        name: what `--readers` calls it.
        file: name of the file that is mutated.
        kind: its format, a key of `mutations.FORMATS`.
        prepare: writes into a folder what the reader needs beside it.
        where: what a refusal must name; None is the file.
        cost: how many inputs of a cheap reader one of this takes.
    """

    name: str
    file: str
    kind: str
    prepare: Callable[[Path], Prepared]
    where: str | None = None
    cost: int = 1


# -- data sets: three images of two regions, two captions an image -----------------------------------------------------

WORDS = ("a", "red", "dog", "outside", "two", "cats")
CAPTIONS = ["a red dog", "two cats outside", "a dog, a cat's dog", "Red. DOG? outside!", "cannot a red", "dog"]
FEATURES = np.random.RandomState(0).randn(3, 2, 4).astype(np.float32)
LINES = "\n".join(CAPTIONS) + "\n"
VOCABULARY = Vocabulary((*SPECIAL, *WORDS))


def npy_bytes(array: np.ndarray) -> bytes:
    """Return an npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def hdf5_bytes(**datasets: np.ndarray | dict[str, object]) -> bytes:
    """Return an HDF5 file; a dict is arguments of `create_dataset`."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, data in datasets.items():
            file.create_dataset(name, **(data if isinstance(data, dict) else {"data": data}))
    return buffer.getvalue()


def _use_split(path: Path) -> None:
    if path.name.endswith("_caps.txt") or path.suffix == ".tsv":
        read_captions(path.parent, "train")
    else:
        opened = RegionFile(path)
        opened.read(np.arange(min(len(opened), 3)))
    split = PrecomputedSplit(path.parent, "train", VOCABULARY)
    split.regions.check_finite()
    split.read_images(np.arange(split.num_images)[:5])
    split.tokens(np.arange(len(split)))


def _regions(folder: Path, samples: list[bytes]) -> Prepared:
    (folder / "train_caps.txt").write_text(LINES, encoding="utf-8")
    return Prepared(samples, _use_split)


def _npy(folder: Path) -> Prepared:
    layouts = [np.asfortranarray(FEATURES), np.repeat(FEATURES, 2, axis=0)]
    return _regions(folder, [npy_bytes(a) for a in (*(FEATURES.astype(k) for k in ("<f4", "<f2", ">f8")), *layouts)])


def _hdf5(folder: Path) -> Prepared:
    packed = {"data": FEATURES, "chunks": (1, 2, 4), "compression": "gzip", "shuffle": True, "fletcher32": True}
    codes = hdf5_bytes(features=(FEATURES * 40).astype(np.int8), scales=np.full(4, 0.025, np.float32))
    return _regions(folder, [hdf5_bytes(features=f) for f in (FEATURES, packed, FEATURES.astype("f2"))] + [codes])


def _captions(folder: Path, *, tsv: bool = False) -> Prepared:
    np.save(folder / "train_ims.npy", FEATURES)
    lines = [f"{k // 2}\t{caption}" for k, caption in enumerate(CAPTIONS)] if tsv else CAPTIONS
    return Prepared([("\n".join(lines) + "\n").encode(), ("\ufeff" + "\r\n".join(lines)).encode()], _use_split)


def _vocabulary(folder: Path) -> Prepared:
    VOCABULARY.save(folder / "first.json")

    def read(path: Path) -> None:
        opened = Vocabulary.load(path)
        opened.digest()
        opened.encode_all(CAPTIONS)
        opened.save(folder / "again.json")

    return Prepared([(folder / "first.json").read_bytes()], read)


def _word_vectors(folder: Path) -> Prepared:
    """GloVe's and word2vec's text."""
    lines = [f"{word} " + " ".join(f"{k * 0.25:g}" for k in range(4)) for word in (*WORDS, ". .", "<unk>", "zebra")]
    plain = "\n".join(lines) + "\n"
    samples = [plain.encode(), f"{len(lines)} 4\n{plain}".encode()]
    return Prepared(samples, lambda path: word_vectors.load(path, VOCABULARY, 4).report("x"))


BY_CAPTION, OWN = np.array([0, 1, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 2])
"""The image that each caption is given to, and its own."""


def _noise_index(folder: Path) -> Prepared:
    arrays = [BY_CAPTION, BY_CAPTION.astype(np.uint8), np.array([1, 0, 2])]
    return Prepared([npy_bytes(a) for a in arrays], lambda path: measure(read_index(path, OWN).index, OWN, 0.2))


def _sidecar(folder: Path) -> Prepared:
    """The JSON beside an index."""
    place, report = folder / "noise.npy", measure(BY_CAPTION, OWN, 0.2)
    save_index(place, BY_CAPTION, report, 7)

    def read(path: Path) -> None:
        content = read_sidecar(place)
        assert content is not None
        disagreements(place, report, content)

    return Prepared([(folder / "noise.json").read_bytes()], read)


def _relevance(folder: Path, texts: list[str]) -> Prepared:
    """Ground truths of many to many; ids are in a file that is whole."""
    (folder / "train_ids.txt").write_text("x.jpg\n42\n7\n", encoding="utf-8")
    (folder / "train_ims.npy").write_bytes(npy_bytes(FEATURES))
    (folder / "train_caps.txt").write_text(LINES, encoding="utf-8")
    split = PrecomputedSplit(folder, "train", VOCABULARY)
    return Prepared([text.encode() for text in texts], lambda path: ground_truth(path, split))


RELEVANCE = {
    "tsv": ["0\t0\n1\t3\n2\t5\n", "image_id\tcaption\n42\t1\n7\t0\n"],
    "csv": ["image,caption\r\n0,1\r\n2,5\r\n", 'score,Caption,IMAGE\n0.5,"3",1\n'],
    "json": [
        *(json.dumps([[0, 1], [2, 5]]), json.dumps([{"image": 1, "caption": 3}, {"image_id": "42", "caption": 1}])),
        json.dumps({"i2t": {"0": [0, 3]}, "t2i": {"1": [2]}}),
    ],
}


def _ids(folder: Path) -> Prepared:
    """The ids of a split's images."""
    prepared, pairs = _relevance(folder, []), folder / "pairs.tsv"
    pairs.write_text("image_id\tcaption\n42\t1\n", encoding="utf-8")
    return Prepared([b"x.jpg\n42\n7\n", b"x.jpg\nx.jpg\n42\n42\n7\n7\n"], lambda path: prepared.read(pairs))


def _bottom_up(folder: Path) -> Prepared:
    sample = write_tsv(folder / "whole.tsv", FEATURES).read_bytes()

    def read(path: Path) -> None:
        opened = BottomUpFile(path)
        opened.read(np.arange(len(opened)))

    return Prepared([sample, sample.replace(b"\n", b"\r\n")], read)


# -- checkpoints, states, settings and results of runs -----------------------------------------------------------------


def torch_bytes(content: Any, *, old: bool = False) -> bytes:
    """Return what torch.save writes; `old`: as before torch 1.6."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def our_content(module_name: str = "VSE") -> dict[str, Any]:
    """Return a checkpoint of two small networks."""
    config: RunConfig = parse_args(["--data_name", "tiny"])
    told = config.as_dict()
    told["matcher"] |= {**SIZES, "module_name": module_name}
    return {
        "format": FORMAT,
        "epoch": 3,
        "config": {**told, "shape": asdict(SHAPE), "noise_report": asdict(NoiseReport("caption", 0.2, 0.19))},
        "vocabulary_digest": "0" * 64,
        "networks": [small_matcher(module_name, seed=seed).state_dict() for seed in (0, 1)],
        "dev": {name: {"rSum": 100.0} for name in ("A", "B", "mean")},
        "chosen_on": "dev",
    }


def _read_checkpoint(path: Path) -> None:
    content = load_checkpoint(path)
    print(description(content, path))
    matchers = restore(content, str(path))
    record = provenance([content], [str(path)])
    print(provenance_lines(record, [["A", "B", "C"][: len(matchers)]]))
    json.dumps(record)
    torch.save(to_legacy(content), io.BytesIO())
    misfits(content)


def _checkpoint(folder: Path) -> Prepared:
    samples = [torch_bytes(our_content(module)) for module in ("VSE", "SGR")]
    return Prepared([*samples, torch_bytes(our_content(), old=True)], _read_checkpoint)


def _lineage(folder: Path, *, old: bool) -> Prepared:
    """Checkpoints of NCR, SGRAF and CRCL (with values of numpy), of either layout of torch."""
    crcl = lineage_content([small_matcher("SAF")], module_name="SAF")
    contents = [
        lineage_content([small_matcher(seed=0), small_matcher(seed=1)]),
        lineage_content([small_matcher("SAF")], module_name="SAF"),
        {**crcl, "best_rsum": np.float64(400), "move_gt": np.ones(9)},
    ]
    return Prepared([torch_bytes(content, old=old) for content in contents], _read_checkpoint)


def _run_state(folder: Path) -> Prepared:
    """What a run saves to go on, its checksum right: tensors, generators, nested plain values."""
    SavedState(folder).save(
        {
            "config": parse_args([]).as_dict(),
            "data_digest": "0" * 64,
            "networks": [{"weights": small_matcher("VSE").state_dict(), "dropout": torch.Generator().get_state()}],
            "stage": 1,
            "steps": {"A": {"batches": 3, "losses": [0.5], "total": 7}},
            "divisions": {"A": {"signal": torch.zeros(4, dtype=torch.float64)}},
            "best": {"epoch": 2},
            "log": {"metrics.jsonl": 3},
        }
    )
    (folder / "outside").write_text("kept", encoding="utf-8")

    def read(path: Path) -> None:
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        content, _ = SavedState(folder).load()
        try:
            RunLog(logs, content.get("log")).close()
        finally:
            assert (folder / "outside").read_text(encoding="utf-8") == "kept"

    return Prepared([(folder / STATES[1]).read_bytes()], read)


def _results(folder: Path, *, config: bool = False) -> Prepared:
    """results.json of run.py, evaluation.py and CLIP runs, or the config.json beside one."""
    told = json.dumps(parse_args([]).as_dict(), indent=2).encode()
    clip = {"clip_method": "dsdmr", "seed": 0, "epoch": 1, "chosen_on": "dev", "noise": None}
    records = [run_record(), evaluation_record(), {**clip, "test": run_record()["test"]["A"]}]
    if config:
        (folder / "results.json").write_text(json.dumps(run_record()), encoding="utf-8")
    else:
        (folder / "config.json").write_bytes(told)

    def read(path: Path) -> None:
        for form in FORMATS:
            print(build(TableConfig(format=form), [folder, folder / "results.json"]))

    return Prepared([told] if config else [json.dumps(record, indent=2).encode() for record in records], read)


def _arguments(folder: Path) -> Prepared:
    """An argument file, `@FILE`."""
    recipes = Path(robustness.__file__).parents[1] / "recipes"

    def read(path: Path) -> None:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                parse_args([f"@{path}"])
        except SystemExit as stop:
            if stop.code == 2:
                raise InputError(said.getvalue().removesuffix("\n")) from None
            assert stop.code == 0  # --help

    return Prepared([(recipes / name).read_bytes() for name in ("emoji_mgcs_0.4.args", "f30k_scan_i2t.args")], read)


SUITE_READERS = [
    Reader("regions_npy", "train_ims.npy", "npy", _npy),
    Reader("regions_hdf5", "train_ims.h5", "hdf5", _hdf5),
    Reader("captions_txt", "train_caps.txt", "text", _captions),
    Reader("captions_tsv", "train_caps.tsv", "text", partial(_captions, tsv=True)),
    Reader("vocabulary", "tiny_vocab.json", "json", _vocabulary),
    Reader("word_vectors", "vectors.txt", "text", _word_vectors),
    Reader("noise_index", "noise.npy", "npy", _noise_index),
    Reader("noise_sidecar", "noise.json", "json", _sidecar),
    Reader("relevance_tsv", "pairs.tsv", "text", partial(_relevance, texts=RELEVANCE["tsv"])),
    Reader("relevance_csv", "pairs.csv", "text", partial(_relevance, texts=RELEVANCE["csv"])),
    Reader("relevance_json", "pairs.json", "json", partial(_relevance, texts=RELEVANCE["json"])),
    Reader("image_ids", "train_ids.txt", "text", _ids, where=""),
    Reader("bottom_up", "features.tsv", "text", _bottom_up),
    Reader("checkpoint", "net.pth.tar", "zip", _checkpoint, cost=4),
    Reader("lineage", "ncr.pth.tar", "zip", partial(_lineage, old=False), cost=4),
    Reader("lineage_old", "ncr.pth.tar", "legacy_torch", partial(_lineage, old=True), cost=4),
    Reader("run_state", STATES[1], "state", _run_state, where="", cost=2),
    Reader("results", "results.json", "json", _results),
    Reader("run_config", "config.json", "json", partial(_results, config=True)),
    Reader("argument_file", "run.args", "text", _arguments, where=""),
]


# -- files that need nothing beside them: name, format, valid files ----------------------------------------------------

ROWS = np.random.RandomState(1).randn(5, 4).astype(np.float32)
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
    given = clip.parse_args(["--clip", str(folder), "--output_dir", str(folder)])
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
