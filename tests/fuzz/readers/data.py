"""Readers of data sets: features, captions, ids, vocabularies, word vectors, noise, relevance, cached tokens."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np

from data_utils.captions import read_captions
from data_utils.catalog import DataConfig
from data_utils.noise_index import disagreements, measure, read_index, read_sidecar, save_index
from data_utils.precomputed import PrecomputedSplit
from data_utils.regions import RegionFile
from data_utils.tokens import cache_folder, read_tokens
from evaluation import ground_truth
from tests.fuzz.trial import Prepared, Reader
from tests.tools.convert.bottom_up_files import write_tsv
from tools.check.__main__ import check, show
from tools.convert.bottom_up import BottomUpFile, read_ids
from tools.convert.conversion import Plan
from vocab import word_vectors
from vocab.vocabulary import SPECIAL, Vocabulary

WORDS = ("a", "red", "dog", "outside", "two", "cats")
CAPTIONS = ["a red dog", "two cats outside", "a dog, a cat's dog", "Red. DOG? outside!", "cannot a red", "dog"]
FEATURES = np.random.RandomState(0).randn(3, 2, 4).astype(np.float32)
OWN = np.array([0, 0, 1, 1, 2, 2])
"""Three images, two regions each; two captions an image."""


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


def vocabulary() -> Vocabulary:
    """Return a small vocabulary."""
    return Vocabulary((*SPECIAL, *WORDS))


def _write_captions(folder: Path) -> Path:
    path = folder / "train_caps.txt"
    path.write_text("\n".join(CAPTIONS) + "\n", encoding="utf-8")
    return path


def _use(split: PrecomputedSplit) -> None:
    split.regions.check_finite()
    split.read_images(np.arange(split.num_images)[:5])
    split.tokens(np.arange(len(split)))


def _features(path: Path) -> None:
    opened = RegionFile(path)
    opened.read(np.arange(min(len(opened), 3)))
    _use(PrecomputedSplit(path.parent, "train", vocabulary(), token_cache="off"))


def prepare_npy(folder: Path) -> Prepared:
    """Features as npy."""
    _write_captions(folder)
    types: list[np.ndarray] = [FEATURES.astype(kind) for kind in ("<f4", "<f2", ">f8")]
    layouts = [np.asfortranarray(FEATURES), np.repeat(FEATURES, 2, axis=0)]
    return Prepared([npy_bytes(array) for array in (*types, *layouts)], _features)


def prepare_hdf5(folder: Path) -> Prepared:
    """Features as HDF5."""
    _write_captions(folder)
    packed = {"data": FEATURES, "chunks": (1, 2, 4), "compression": "gzip", "shuffle": True, "fletcher32": True}
    codes = (FEATURES * 40).astype(np.int8)
    samples = [hdf5_bytes(features=FEATURES), hdf5_bytes(features=packed), hdf5_bytes(features=FEATURES.astype("f2"))]
    return Prepared([*samples, hdf5_bytes(features=codes, scales=np.full(4, 0.025, np.float32))], _features)


def _captions(path: Path) -> None:
    read_captions(path.parent, "train")
    _use(PrecomputedSplit(path.parent, "train", vocabulary(), token_cache="off"))


def prepare_captions(folder: Path, *, tsv: bool) -> Prepared:
    """Captions."""
    np.save(folder / "train_ims.npy", FEATURES)
    lines = [f"{k // 2}\t{caption}" for k, caption in enumerate(CAPTIONS)] if tsv else CAPTIONS
    return Prepared([("\n".join(lines) + "\n").encode(), ("\ufeff" + "\r\n".join(lines)).encode()], _captions)


def prepare_check(folder: Path) -> Prepared:
    """A whole data set, looked at by `tools.check`, with a caption file that is broken."""
    data = folder / "tiny"
    for split in ("train", "dev", "test"):
        (folder / f"{split}_caps.txt").write_text("\n".join(CAPTIONS) + "\n", encoding="utf-8")
        np.save(folder / f"{split}_ims.npy", FEATURES)
    data.symlink_to(folder)
    vocabulary().save(folder / "tiny_vocab.json")
    (folder / "train_ids.txt").write_text("1\n2\n3\n", encoding="utf-8")
    config = DataConfig(data_name="tiny", data_path=str(folder), vocab_path=str(folder), token_cache="off")
    return Prepared([("\n".join(CAPTIONS) + "\n").encode()], lambda path: show(check(config), config))


def prepare_vocabulary(folder: Path) -> Prepared:
    """SCAN's JSON."""

    def read(path: Path) -> None:
        opened = Vocabulary.load(path)
        opened.digest()
        opened.encode_all(CAPTIONS)
        opened.save(folder / "again.json")

    place = folder / "first.json"
    vocabulary().save(place)
    return Prepared([place.read_bytes()], read)


def prepare_word_vectors(folder: Path) -> Prepared:
    """GloVe's and word2vec's text."""
    lines = [f"{word} " + " ".join(f"{k * 0.25:g}" for k in range(4)) for word in (*WORDS, ". .", "<unk>", "zebra")]
    plain = "\n".join(lines) + "\n"
    headed = f"{len(lines)} 4\n{plain}"
    return Prepared(
        [plain.encode(), headed.encode()], lambda path: word_vectors.load(path, vocabulary(), 4).report("x")
    )


def prepare_noise_index(folder: Path) -> Prepared:
    """An index by caption and one by image."""
    by_caption = np.array([0, 1, 0, 1, 2, 2])
    arrays = [by_caption, by_caption.astype(np.uint8), np.array([1, 0, 2])]
    return Prepared([npy_bytes(a) for a in arrays], lambda path: measure(read_index(path, OWN).index, OWN, 0.2))


def prepare_sidecar(folder: Path) -> Prepared:
    """The JSON beside an index."""
    place, index = folder / "noise.npy", np.array([0, 1, 0, 1, 2, 2])
    report = measure(index, OWN, 0.2)
    save_index(place, index, report, 7)

    def read(path: Path) -> None:
        content = read_sidecar(place)
        assert content is not None
        disagreements(place, report, content)

    return Prepared([(folder / "noise.json").read_bytes()], read)


def prepare_relevance(folder: Path, texts: list[str]) -> Prepared:
    """Ground truths of many to many; ids are in a file that is whole."""
    (folder / "train_ids.txt").write_text("x.jpg\n42\n7\n", encoding="utf-8")
    (folder / "train_ims.npy").write_bytes(npy_bytes(FEATURES))
    _write_captions(folder)
    split = PrecomputedSplit(folder, "train", vocabulary(), token_cache="off")
    return Prepared([text.encode() for text in texts], lambda path: ground_truth(path, split))


RELEVANCE = {
    "tsv": ["0\t0\n1\t3\n2\t5\n", "image_id\tcaption\n42\t1\n7\t0\n"],
    "csv": ["image,caption\r\n0,1\r\n2,5\r\n", 'score,Caption,IMAGE\n0.5,"3",1\n'],
    "json": [
        *(json.dumps([[0, 1], [2, 5]]), json.dumps([{"image": 1, "caption": 3}, {"image_id": "42", "caption": 1}])),
        json.dumps({"i2t": {"0": [0, 3]}, "t2i": {"1": [2]}}),
    ],
}


def prepare_ids(folder: Path) -> Prepared:
    """The ids of a split's images."""
    prepared = prepare_relevance(folder, [])
    (folder / "pairs.tsv").write_text("image_id\tcaption\n42\t1\n", encoding="utf-8")
    by_image, by_caption = "x.jpg\n42\n7\n", "x.jpg\nx.jpg\n42\n42\n7\n7\n"
    return Prepared([by_image.encode(), by_caption.encode()], lambda path: prepared.read(folder / "pairs.tsv"))


def prepare_bottom_up(folder: Path) -> Prepared:
    """A bottom-up-attention TSV."""
    sample = write_tsv(folder / "whole.tsv", FEATURES).read_bytes()

    def read(path: Path) -> None:
        opened = BottomUpFile(path)
        opened.read(np.arange(len(opened)))

    return Prepared([sample, sample.replace(b"\n", b"\r\n")], read)


def prepare_order(folder: Path) -> Prepared:
    """The ids that order a TSV's rows."""
    place = write_tsv(folder / "whole.tsv", FEATURES)
    return Prepared(
        [b"100\n102\n101\n", b"\xef\xbb\xbf100\r\n100\r\n101\r\n"], lambda path: BottomUpFile(place, read_ids(path))
    )


def prepare_progress(folder: Path) -> Prepared:
    """How far a conversion is."""
    source = SimpleNamespace(shape=(5, 2, 4), path=folder / "in.npy", dtype=np.dtype("f4"), block_rows=1)
    plan = Plan(source, folder / "out.npy", np.dtype("f4"), {"input": "in.npy", "shape": [5, 2, 4]})  # type: ignore[arg-type]
    plan.part.touch()
    told = {**plan.identity, "rows_done": 3}
    return Prepared([json.dumps(told).encode()], lambda path: np.arange(plan.rows_done()))


def prepare_tokens(folder: Path) -> Prepared:
    """Cached tokens: one that is damaged is made anew."""
    captions, cache = _write_captions(folder), cache_folder(str(folder))
    expected = read_tokens(captions, vocabulary(), str(cache))
    (place,) = folder.glob("*.npz")

    def read(path: Path) -> None:
        shutil.copyfile(path, place)
        found = read_tokens(captions, vocabulary(), str(cache))
        assert len(found) == len(expected)

    return Prepared([place.read_bytes()], read)


def _relevance(kind: str) -> Callable[[Path], Prepared]:
    return lambda folder: prepare_relevance(folder, RELEVANCE[kind])


READERS = [
    Reader("regions_npy", "train_ims.npy", "npy", prepare_npy),
    Reader("regions_hdf5", "train_ims.h5", "hdf5", prepare_hdf5),
    Reader("captions_txt", "train_caps.txt", "text", lambda folder: prepare_captions(folder, tsv=False)),
    Reader("captions_tsv", "train_caps.tsv", "text", lambda folder: prepare_captions(folder, tsv=True)),
    Reader("check", "dev_caps.txt", "text", prepare_check),
    Reader("vocabulary", "tiny_vocab.json", "json", prepare_vocabulary),
    Reader("word_vectors", "vectors.txt", "text", prepare_word_vectors),
    Reader("noise_index", "noise.npy", "npy", prepare_noise_index),
    Reader("noise_sidecar", "noise.json", "json", prepare_sidecar),
    *(
        Reader(f"relevance_{kind}", f"pairs.{kind}", "json" if kind == "json" else "text", _relevance(kind))
        for kind in RELEVANCE
    ),
    Reader("image_ids", "train_ids.txt", "text", prepare_ids, where=""),
    Reader("bottom_up", "features.tsv", "text", prepare_bottom_up),
    Reader("row_order", "ids.txt", "text", prepare_order, where="--ids"),
    Reader("conversion_state", "out.npy.part.json", "json", prepare_progress),
    Reader("token_cache", "tokens.npz", "zip", prepare_tokens, cost=2),
]
