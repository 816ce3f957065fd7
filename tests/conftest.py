"""Fixtures of all tests: one thread, one made-up data set, one trained run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import run
from tests.tiny import make_tiny_data, tiny_flags

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, and of the processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `data/tiny_precomp/` and `vocab/`; tests only read it."""
    return make_tiny_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def trained_folder(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of two small networks on the tiny data; tests only read it."""
    output = tmp_path_factory.mktemp("trained")
    run.main(tiny_flags(tiny_root, output, "--num_epochs", "1"))
    (folder,) = output.iterdir()
    return folder


@pytest.fixture(scope="session")
def checkpoint_path(trained_folder: Path) -> Path:
    """Checkpoint of `trained_folder`."""
    return trained_folder / "checkpoint_dev_best.pth.tar"
