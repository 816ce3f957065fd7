"""Made-up embeddings whose mismatched pairs are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors.torch import save_file


@dataclass(frozen=True)
class MadeUp:
    """Images (I, D), captions (C, D) and which pairs are matched (C,)."""

    images: np.ndarray
    captions: np.ndarray
    is_matched: np.ndarray


def make(
    num_images: int = 600,
    *,
    captions_per_image: int = 1,
    noise: float = 0.4,
    nuisance: float = 0.0,
    dim: int = 32,
    seed: int = 0,
) -> MadeUp:
    """Return pairs of a shared meaning; a share `noise` of the captions changes places, `nuisance` is there to unlearn.

    Nuisance: the first quarter of the dimensions of images and the second of captions hold what the other side has not.
    """
    random = np.random.default_rng(seed)
    meaning = random.normal(size=(num_images, dim))
    meaning /= np.linalg.norm(meaning, axis=1, keepdims=True)
    image_of_caption = np.arange(num_images * captions_per_image) // captions_per_image

    def side(shared: np.ndarray, first: int) -> np.ndarray:
        rows = shared + random.normal(size=shared.shape) * 0.3 / np.sqrt(dim)
        rows[:, first : first + dim // 4] += nuisance * random.normal(size=(len(rows), dim // 4))
        return rows.astype(np.float32)

    images, captions = side(meaning, 0), side(meaning[image_of_caption], dim // 4)
    is_matched = np.ones(len(captions), dtype=bool)
    moved = random.choice(len(captions), int(noise * len(captions)), replace=False)
    if len(moved) > 1:
        captions[moved] = captions[np.roll(moved, 1)]
        is_matched[moved] = image_of_caption[moved] == image_of_caption[np.roll(moved, 1)]
    return MadeUp(images, captions, is_matched)


def save(made_up: MadeUp, folder: Path) -> dict[str, str]:
    """Write npy files; return their names by the flag that takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {flag: str(folder / f"{flag}.npy") for flag in ("images", "captions", "truth")}
    np.save(names["images"], made_up.images)
    np.save(names["captions"], made_up.captions)
    np.save(names["truth"], made_up.is_matched)
    return names


def save_as(array: np.ndarray, path: Path) -> str:
    """Write an array in the format of the path's suffix; return what to pass for it."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix in (".h5", ".hdf5"):
        with h5py.File(path, "w") as file:
            file.create_dataset("group/vectors", data=array, chunks=True, compression="gzip")
            file.create_dataset("lengths", data=np.arange(len(array)))
    elif path.suffix == ".safetensors":
        save_file({"vectors": torch.from_numpy(array), "lengths": torch.arange(len(array))}, path)
    else:
        path.write_text("".join(f"{value!r}\n" for value in array.tolist()), encoding="utf-8")
    return str(path)


def flags(names: dict[str, str], output: Path, *others: str) -> list[str]:
    """Return a command line."""
    return [*(part for flag, name in names.items() for part in (f"--{flag}", name)), "--output", str(output), *others]
