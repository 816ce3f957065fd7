"""Data files that claim what they do not hold, or lead elsewhere: refused in a line, before anything is allocated."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save

from data_utils.arrays import open_npy
from data_utils.captions import read_captions
from data_utils.catalog import DataConfig
from data_utils.noise import read_index
from data_utils.regions import RegionFile
from runtime.errors import InputError
from tools.extract.listing import read_listing
from tools.extract.regions import read_boxes
from tools.filter.files import open_embeddings, read_similarities
from tools.picture_files import Image, picture_bytes, picture_files, thumbnails
from vocab import word_vectors
from vocab.vocabulary import SPECIAL, Vocabulary

ROWS = 10**15
FEATURES = np.ones((3, 2, 4), np.float32)


@pytest.fixture(autouse=True)
def _allocates_little() -> Iterator[None]:
    """What numpy and Python allocate in a test stays below 64 MiB."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


def npy_with(header: str, data: bytes = b"\0" * 64, version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + data


def claiming(shape: object, descr: object = "<f4") -> bytes:
    return npy_with(repr({"descr": descr, "fortran_order": False, "shape": shape}))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


READERS: list[Callable[[Path], object]] = [
    RegionFile,
    lambda path: read_index(path, np.array([0, 0, 1, 1, 2, 2])),
    lambda path: open_embeddings(str(path)),
    lambda path: read_similarities(str(path)),
]


@pytest.mark.parametrize("read", READERS)
def test_an_npy_header_of_more_rows_than_there_are(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = written(tmp_path / "x.npy", claiming((ROWS, 36, 2048)))
    with pytest.raises(InputError, match=rf"x.npy is cut short: shape \({ROWS}, 36, 2048\) of float32 takes \d+ bytes"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (claiming((-1, 2, 4)), r"is damaged: its header says shape \(-1, 2, 4\)"),
        (claiming((2**70, 0)), "is damaged: its header says shape"),
        (claiming((True, 2, 4)), "is damaged: its header says shape"),
        (claiming((3, 2, 4), "|O"), "is not a numeric npy file: it holds object"),
        (claiming((3, 2, 4), "<U0"), "is not a numeric npy file: it holds"),
        (claiming((3, 2, 4), [("a", "<f4")]), "is not a numeric npy file: it holds"),
        (npy_with("{'descr': '<f4', (((((("), "is not a numeric npy file"),
        (npy_with("("), "is not a numeric npy file"),
        (npy_with("(" * 9000), "is not a numeric npy file"),
        (npy_with("{}", version=b"\3\0"), r"is not a numeric npy file: version \(3, 0\)"),
        (b"PK\3\4", "is an archive"),
        (b"", "is not a numeric npy file"),
    ],
)
def test_other_npy_headers(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"x.npy {message}"):
        open_npy(written(tmp_path / "x.npy", content))


# -- HDF5 -----------------------------------------------------------------------------------------------------------


def hdf5(path: Path, make: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "w") as file:
        make(file)
    return path


@pytest.mark.parametrize("shape", [(ROWS, 2, 4), (2**31, 2**31, 4), (10, 36, 2048)])
@pytest.mark.parametrize("packed", [{}, {"compression": "gzip"}])
def test_hdf5_rows_that_are_not_stored(tmp_path: Path, shape: tuple[int, ...], packed: dict[str, str]) -> None:
    path = hdf5(tmp_path / "x.h5", lambda f: f.create_dataset("features", shape, "f4", chunks=(1, 2, 4), **packed))
    for read in (RegionFile, lambda place: open_embeddings(f"{place}::features")):
        with pytest.raises(InputError, match="x.h5: '/features' is cut short, or was never filled: shape"):
            read(path)


def test_hdf5_numbers_of_another_file(tmp_path: Path) -> None:
    hdf5(tmp_path / "other.h5", lambda f: f.create_dataset("features", data=FEATURES))
    secret = written(tmp_path / "secret", FEATURES.tobytes())
    layout = h5py.VirtualLayout(FEATURES.shape, "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "features", FEATURES.shape)
    makes: list[Callable[[h5py.File], object]] = [
        lambda f: f.update({"features": h5py.ExternalLink("other.h5", "features")}),
        lambda f: f.create_virtual_dataset("features", layout),
        lambda f: f.create_dataset("features", (3, 2, 4), "f4", external=[(str(secret), 0, 96)]),
    ]
    for make in makes:
        with pytest.raises(InputError, match="'/features' keeps its numbers in another file"):
            RegionFile(hdf5(tmp_path / "x.h5", make))


def test_hdf5_chunks_that_would_end_the_process(tmp_path: Path) -> None:
    """A packed chunk of no bytes with a checksum: the library subtracts 4 from 0, and unpacks what is behind."""
    packed = {"chunks": (1, 2, 4), "compression": "gzip", "fletcher32": True}
    path = hdf5(tmp_path / "x.h5", lambda f: f.create_dataset("features", data=FEATURES, **packed))
    with h5py.File(path) as file:
        size = file["features"].id.get_chunk_info(1).size
    content = path.read_bytes()
    place = content.index(struct.pack("<II", size, 0))  # a chunk's key in the tree: its size, its filters
    path.write_bytes(content[:place] + struct.pack("<II", 0, 0) + content[place + 8 :])
    with pytest.raises(InputError, match="'/features' is damaged: 1 chunks, the first at"):
        RegionFile(path)


def test_hdf5_filters_that_are_not_known(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "x.h5", lambda f: f.create_dataset("features", data=FEATURES, chunks=True, scaleoffset=2))
    with pytest.raises(InputError, match="is packed by filter 6; known: deflate, shuffle, fletcher32, lzf"):
        RegionFile(path)


# -- other files ----------------------------------------------------------------------------------------------------


def test_a_safetensors_header_of_more_rows_than_there_are(tmp_path: Path) -> None:
    content = save({"rows": FEATURES[:, 0]})
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    for shape, end in (([ROWS, 4], 48), ([ROWS, 4], ROWS * 16)):
        header["rows"] |= {"shape": shape, "data_offsets": [0, end]}
        text = json.dumps(header).encode()
        path = written(tmp_path / "x.safetensors", struct.pack("<Q", len(text)) + text + content[8 + length :])
        with pytest.raises(InputError, match="x.safetensors is not a safetensors file"):
            open_embeddings(str(path))


def test_a_caption_without_end(tmp_path: Path) -> None:
    written(tmp_path / "train_caps.txt", b"a dog\n" + b". " * 10**6)
    with pytest.raises(InputError, match="train_caps.txt line 2 holds a caption of 1999999 characters; 5000 at most"):
        read_captions(tmp_path, "train")


@pytest.mark.skipif(Image is None, reason="Pillow is an optional extra")
def test_a_picture_that_claims_too_many_pixels(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    with pytest.raises(InputError, match=r"x.png cannot be read: it has 9000 x 9000 pixels, 67108864 are the most"):
        picture_files([written(tmp_path / "x.png", buffer.getvalue())]).pixels(0)


@pytest.mark.skipif(Image is None, reason="Pillow is an optional extra")
def test_pictures_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 of 2 pictures are missing"):
        picture_files([Path("/dev/zero"), tmp_path / ("x" * 5000)])
    with pytest.raises(FileNotFoundError, match="/dev/zero"):
        picture_bytes(Path("/dev/zero"))
    path = hdf5(tmp_path / "t.h5", lambda f: f.update({"train/bytes": np.uint8(3), "train/offsets": np.arange(2)}))
    with pytest.raises(InputError, match="do not fit its 1 bytes"):
        thumbnails(path, "train")


@pytest.mark.parametrize(
    ("name", "content", "read", "message"),
    [
        ("v.json", "[" * 10**5, Vocabulary.load, "v.json is not a vocabulary .*it nests too deep"),
        ("v.json", '{"word2idx": {"\\ud800": 0}}', Vocabulary.load, "v.json .*half a character"),
        ("v.json", '{"word2idx": {"<pad>": 0}}', Vocabulary.load, "v.json: a vocabulary starts with"),
        (
            "b.json",
            '[{"image": {}, "x1": 0, "y1": 0, "x2": 1, "y2": 1}]',
            read_boxes,
            "entry 0: {} is no picture's name",
        ),
        ("l.json", '[{"image": "a", "caption": "x", "split": {}}]', lambda p: read_listing(p, "train"), "split is {}"),
        ("l.json", "9" * 5000, lambda p: read_listing(p, "train"), "l.json is no JSON"),
        (
            "w.txt",
            "9" * 5000 + " 4\n",
            lambda p: word_vectors.load(p, Vocabulary(SPECIAL), 4),
            "w.txt has vectors of 1 dimensions",
        ),
    ],
)
def test_crashes_that_were(
    tmp_path: Path, name: str, content: str, read: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(written(tmp_path / name, content.encode()))


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "..", ".", ""])
def test_a_data_set_is_no_path(name: str) -> None:
    """Its name is part of the names of what is written: the vocabulary, the run's folder."""
    with pytest.raises(InputError, match="--data_name"):
        DataConfig(data_name=name)
