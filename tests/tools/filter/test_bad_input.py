"""What the user gets wrong: one line that says what, where and what to do; exit code 2; nothing is left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tools.conftest import ErrorOf
from tests.tools.filter.made_up import flags, make, save
from tools.filter import __main__ as clean

Fails = Callable[..., str]


@pytest.fixture
def names(tmp_path: Path) -> dict[str, str]:
    """Good files, to be broken."""
    return save(make(100), tmp_path / "in")


@pytest.fixture
def fails(error_of: ErrorOf, tmp_path: Path) -> Callable[..., str]:
    """Call the entry point, which leaves nothing; return the line it prints on the way out."""

    def call(names: dict[str, str], *others: str) -> str:
        error = error_of(clean.main, flags(names, tmp_path / "out", *others))
        assert len(error) < 600 and not (tmp_path / "out").exists()
        return error

    return call


def broken(names: dict[str, str], flag: str, array: np.ndarray) -> dict[str, str]:
    """Replace one of the files."""
    np.save(names[flag], array)
    return names


def with_row(value: float) -> np.ndarray:
    """Return embeddings of which row 57 has no direction."""
    array = make(100).images
    array[57] = value
    return array


@pytest.mark.parametrize(
    ("flag", "array", "told"),
    [
        ("captions", np.ones((99, 32)), "images.npy has 100 rows, .*captions.npy has 99; expected 1 caption .* same"),
        ("captions", np.ones((300, 32)), "if 3 captions in a row belong to each image, give --captions_per_image 3"),
        ("captions", np.ones((100, 31)), "images.npy has 32 dimensions, .*captions.npy has 31; both must come from"),
        ("captions", np.ones((100, 4, 8)), r"captions.npy has shape \(100, 4, 8\); it must be \(rows, dimensions\)"),
        ("captions", np.ones((100, 32), np.int64), "no floating-point numbers"),
        ("captions", with_row(0.0), "captions.npy row 57 is all zeros"),
        ("captions", with_row(np.nan), "captions.npy row 57 holds NaN or infinity"),
        ("images", with_row(np.inf), "images.npy row 57 holds NaN or infinity"),
        ("truth", np.ones(99), "tells 99 pairs; there are 100"),
        ("truth", np.arange(100), "pair 2"),
    ],
)
def test_files_that_do_not_fit(fails: Fails, names: dict[str, str], flag: str, array: np.ndarray, told: str) -> None:
    line = fails(broken(names, flag, array))
    assert re.search(told, line), line


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_names_in_files(fails: Fails, names: dict[str, str], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    arrays = {"cube": np.ones((2, 3, 4), np.float32), "ids": np.arange(5)}
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.update(arrays)
    else:
        save_file({key: torch.from_numpy(array) for key, array in arrays.items()}, path)
    line = fails({**names, "images": str(path)})
    assert "has no" in line and "cube (2, 3, 4), ids (5,)" in line and f"{path}::" in line
    assert "::none is not there" in fails({**names, "images": f"{path}::none"})
    assert "has shape (2, 3, 4)" in fails({**names, "images": f"{path}::cube"})
    assert "has shape (5,)" in fails({**names, "images": f"{path}::ids"})
    assert "holds one array, without a name" in fails({**names, "images": names["images"] + "::x"})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.full(50, 27.5), "outside [-1, 1]"),
        (np.r_[np.full(49, 0.2), np.nan], "pair 49 is nan"),
        (np.linspace(0, 1, 9), "9 pairs are too few"),
        (np.ones((50, 1)), "has shape (50, 1)"),
    ],
)
def test_similarities(fails: Fails, tmp_path: Path, values: np.ndarray, told: str) -> None:
    np.save(tmp_path / "s.npy", values)
    line = fails({"similarities": str(tmp_path / "s.npy")})
    assert told in line
    assert ("--logit_scale" in line) == ("outside" in told)
    assert "s.npy" in line or "too few" in told


@pytest.mark.parametrize(
    ("keep", "others", "told"),
    [
        (("images",), (), "belong together"),
        ((), (), "either --images and --captions, or --similarities"),
        (("images", "captions"), ("--similarities", "s.npy"), "either --images"),
        (("images", "captions"), ("--logit_scale", "100"), "--logit_scale 100 is for --similarities"),
        ((), ("--similarities", "s.npy", "--captions_per_image", "5"), "--captions_per_image"),
        ((), ("--similarities", "s.npy", "--adapt"), "--adapt needs embeddings"),
        (("images", "captions"), ("--p_threshold", "1"), "--p_threshold"),
        (("images", "captions"), ("--p_threshold", "0.9999999999999"), "no pair is kept"),
        (("images", "captions"), ("--mode_prior", "half"), "--mode_prior"),
        (("images", "captions"), ("--adapt", "--holdout", "0.01"), "--holdout 0.01 of 100 images is 1"),
        (("images", "captions"), ("--adapt", "--holdout", "0.95"), "5 pairs are too few"),
        (("images", "captions"), ("--adapt", "--learning_rate", "1.5"), "--learning_rate"),
        (("images", "captions"), ("--captions_per_image", "2"), "expected 2 captions an image"),
        *(((), ("--similarities", "s.npy", "--logit_scale", s), "--logit_scale") for s in ("0", "-1", "nan", "inf")),
    ],
)
def test_flags(
    fails: Fails,
    names: dict[str, str],
    keep: tuple[str, ...],
    others: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("s.npy", np.linspace(0, 1, 50))
    assert told in fails({key: names[key] for key in keep}, *others)


def test_outputs(error_of: ErrorOf, names: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output, told in (
        ("file", "is a file"),
        ("in", "holds one of the input files"),
        ("file/x", "cannot be written"),
    ):
        assert told in error_of(clean.main, flags(names, tmp_path / output, "--overwrite"))
    assert "--output is missing" in error_of(clean.main, ("--images", names["images"], "--captions", names["captions"]))


def test_an_adapter_that_diverges(fails: Fails, names: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.filter.adapter.hardest_negative", lambda costs: costs.i2t.sum(dim=1) * float("nan"))
    assert "loss is not finite; lower --learning_rate" in fails(names, "--adapt")
