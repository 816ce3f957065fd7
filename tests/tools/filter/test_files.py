"""Readers: every format gives the same bits, in any blocks; every fault is told with its place."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from runtime.errors import InputError
from tests.tools.filter.made_up import make, save_as
from tools.filter import filtering
from tools.filter.files import open_embeddings, read_similarities, read_truth
from tools.filter.filtering import EmbeddingPairs

BINARY = (".npy", ".h5", ".hdf5", ".safetensors")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", BINARY)
def test_every_format_reads_back_bit_by_bit(tmp_path: Path, suffix: str, dtype: type) -> None:
    array: np.ndarray = make(50).images.astype(dtype)
    stored = open_embeddings(save_as(array, tmp_path / f"a{suffix}"))
    assert stored.shape == array.shape and len(stored) == 50
    for part in (slice(0, 50), slice(0, 1), slice(7, 31), slice(45, 80), slice(50, 60)):
        block = stored[part]
        assert block.dtype == dtype and block.tobytes() == array[part].tobytes()


@pytest.mark.parametrize("layout", ["big-endian", "Fortran", "bfloat16", "uncompressed"])
def test_other_layouts(tmp_path: Path, layout: str) -> None:
    array = make(40).images
    path = tmp_path / ("a.safetensors" if layout == "bfloat16" else "a.h5" if layout == "uncompressed" else "a.npy")
    if layout == "bfloat16":
        tensor = torch.from_numpy(array).bfloat16()
        save_file({"x": tensor}, path)
        array = tensor.float().numpy()
    elif layout == "uncompressed":
        with h5py.File(path, "w") as file:
            file["x"] = array
    else:
        np.save(path, array.astype(">f4") if layout == "big-endian" else np.asfortranarray(array))
    block = open_embeddings(str(path))[slice(3, 17)]
    assert block.dtype == np.float32 and block.dtype.isnative
    np.testing.assert_array_equal(block, array[3:17])


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_an_array_by_its_name(tmp_path: Path, suffix: str) -> None:
    array, path = make(40).images, tmp_path / f"two{suffix}"
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["a"], file["b"] = array, 2 * array
    else:
        save_file({"a": torch.from_numpy(array), "b": torch.from_numpy(2 * array)}, path)
    np.testing.assert_array_equal(open_embeddings(f"{path}::b")[:], 2 * array)
    for name, told in (("", "has 2 "), ("::c", "::c is not there")):
        with pytest.raises(InputError, match=rf"{told}.*a \(40, 32\), b \(40, 32\)"):
            open_embeddings(f"{path}{name}")


@pytest.mark.parametrize("captions_per_image", [1, 3])
@pytest.mark.parametrize("suffix", BINARY)
def test_blocks_give_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, captions_per_image: int
) -> None:
    made_up = make(101, captions_per_image=captions_per_image)
    names = [save_as(a, tmp_path / f"{k}{suffix}") for k, a in enumerate((made_up.images, made_up.captions))]
    images = made_up.images.astype(np.float64)[np.arange(101 * captions_per_image) // captions_per_image]
    captions = made_up.captions.astype(np.float64)
    twin = [float(f @ g / np.sqrt((f @ f) * (g @ g))) for f, g in zip(images, captions, strict=True)]
    pairs = EmbeddingPairs.open(names[0], names[1], captions_per_image)
    whole = pairs.similarity()
    np.testing.assert_allclose(whole, twin, rtol=0, atol=1e-14)
    monkeypatch.setattr(filtering, "ROW_CHUNK", 7 * 32)
    assert pairs.similarity().tobytes() == whole.tobytes()


def test_a_column_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('\ufeffpair,"the similarity",is_clean\n0,0.25,1\n1,-3e-1,0\n\n\n', encoding="utf-8")
    assert read_similarities(f"{path}::the similarity").tolist() == [0.25, -0.3]
    assert read_truth(f"{path}::is_clean", 2).tolist() == [True, False]
    with pytest.raises(InputError, match="3 columns.*pair, the similarity, is_clean"):
        read_similarities(str(path))
    with pytest.raises(InputError, match="no column 'x'.*is_clean"):
        read_similarities(f"{path}::x")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("0.1\n0.2\nx\n0.4\n", "line 3 holds 'x'"),
        ("O.1\n0.2\n", "line 1 holds 'O.1'"),
        ("s\n0.1\n\n0.3\n", "line 3 holds nothing"),
        ("\n0.1\n", "line 1 holds nothing"),
        ("0.1,0.2\n", "2 columns"),
    ],
)
def test_text_that_is_no_column(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "s.txt").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=told):
        read_similarities(str(tmp_path / "s.txt"))


@pytest.mark.parametrize("cut", [100, 6000])
def test_a_file_cut_while_in_use(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.npy"
    stored = open_embeddings(save_as(make(50).images, path))
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(stored[0:2]) == 2
    with pytest.raises(InputError, match="cannot be read at rows 40 to 49.*ends before its last row"):
        stored[40:50]
