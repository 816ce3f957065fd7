"""A made-up data set in the published layout, small enough to train on in seconds.

Every image has one of a few themes; its regions are the theme's vector with noise, its captions name the theme, so that
a matcher can learn it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vocab.vocabulary import Vocabulary

THEMES = ("red dog", "blue car", "green tree", "old house", "white cat", "fast train", "small boat", "tall tower")
FILLERS = ("a", "one", "the", "some", "this")
PLACES = ("outside", "inside", "near the road", "at night", "in the rain")


def captions_for(theme: str, number: int, captions_per_image: int) -> list[str]:
    """Return captions of several lengths that name the theme."""
    return [
        f"{FILLERS[(number + k) % len(FILLERS)]} {theme} {PLACES[(number * 3 + k) % len(PLACES)]}"
        for k in range(captions_per_image)
    ]


def make_tiny_data(
    root: Path,
    name: str = "tiny_precomp",
    *,
    images: dict[str, int] | None = None,
    captions_per_image: int = 5,
    regions: int = 4,
    dims: int = 12,
    seed: int = 0,
    repeat_rows: bool = False,
    tsv: bool = False,
) -> Path:
    """Write `<root>/data/<name>/` and `<root>/vocab/<name>_vocab.json`; return `root`.

    Args:
        images: number of images of each split.
        repeat_rows: store one feature row a caption, as some releases do.
        tsv: captions as image id TAB caption.
    """
    random = np.random.RandomState(seed)
    folder = root / "data" / name
    folder.mkdir(parents=True)
    centres = random.randn(len(THEMES), dims)
    texts: list[str] = []
    for split, count in (images or {"train": 40, "dev": 8, "test": 8}).items():
        themes = np.arange(count) % len(THEMES)
        features = centres[themes][:, None] + 0.3 * random.randn(count, regions, dims)
        rows = np.repeat(features, captions_per_image, axis=0) if repeat_rows else features
        np.save(folder / f"{split}_ims.npy", rows.astype(np.float32))
        captions = [c for n, t in enumerate(themes) for c in captions_for(THEMES[t], n, captions_per_image)]
        lines = [f"{k // captions_per_image}\t{c}" for k, c in enumerate(captions)] if tsv else captions
        (folder / f"{split}_caps.{'tsv' if tsv else 'txt'}").write_text("\n".join(lines) + "\n", encoding="utf-8")
        texts += captions if split != "test" else []
    (root / "vocab").mkdir(exist_ok=True)
    Vocabulary.build(texts).save(root / "vocab" / f"{name}_vocab.json")
    return root


def scatter(root: Path, name: str = "tiny_precomp", *, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Make tiny data uneven: an image keeps 1 to 4 captions, images are named by ids, and the lines are shuffled.

    Feature rows are put in the order in which the ids first appear. Return, for each split, the features (R, D) of each
    id, as they were before anything was moved.
    """
    found, random = {}, np.random.RandomState(seed)
    for path in sorted((root / "data" / name).glob("*_caps.txt")):
        split = path.stem.removesuffix("_caps")
        features = np.load(path.with_name(f"{split}_ims.npy"))
        captions, each = path.read_text(encoding="utf-8").splitlines(), 5
        lines = [(f"{split} {i}.jpg", captions[i * each + k]) for i in range(len(features)) for k in range(1 + i % 4)]
        lines = [lines[k] for k in random.permutation(len(lines))]
        path.unlink()
        path.with_suffix(".tsv").write_text("".join(f"{i}\t{c}\n" for i, c in lines), encoding="utf-8")
        order = [int(i.removesuffix(".jpg").split()[1]) for i in dict.fromkeys(i for i, _ in lines)]
        np.save(path.with_name(f"{split}_ims.npy"), features[order])
        found[split] = {f"{split} {i}.jpg": features[i] for i in range(len(features))}
    return found


def tiny_flags(root: Path, output: Path, *extra: str, name: str = "tiny_precomp") -> list[str]:
    """Return run.py's arguments for a small network on the data under `root`; later flags win."""
    return [
        *("--data_name", name, "--data_path", str(root / "data"), "--vocab_path", str(root / "vocab")),
        *("--output_dir", str(output), "--gpu", "cpu", "--module_name", "VSE", "--word_dim", "8", "--embed_size", "16"),
        *("--sim_dim", "8", "--sgr_step", "2", "--batch_size", "16", "--learning_rate", "0.01"),
        *("--warmup_epoch", "1", "--num_epochs", "2", "--noise_ratio", "0.2", *extra),
    ]
