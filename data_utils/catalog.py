"""What a data set is called and holds; the only file that compares data-set names.

Any folder `<data_path>/<data_name>/` with `{split}_ims.npy` or `{split}_ims.h5` and `{split}_caps.txt` or
`{split}_caps.tsv` is a data set; the catalogue adds what is particular to the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import InputError
from runtime.flags import did_you_mean, flag

REPOSITORY = Path(__file__).resolve().parent.parent
EMBEDDED = "emoji_precomp"
NEEDED = ("train", "dev", "test")
"""The splits that a run opens."""

TESTALL = "testall"
"""A larger test split, of which `test` is a part: ranked as a whole and in folds."""


@dataclass(frozen=True)
class DataConfig:
    """Which data set, and where it is."""

    data_name: str = flag(EMBEDDED, "data set: a folder of precomputed features; emoji_precomp comes with the suite")
    data_path: str | None = flag(None, "folder that holds the data set's folder (default: data)", metavar="DIR")
    vocab_path: str | None = flag(None, "folder that holds <data_name>_vocab.json (default: vocab)", metavar="DIR")

    def __post_init__(self) -> None:
        if self.data_name in ("", "..") or Path(self.data_name).name != self.data_name:
            raise InputError(f"--data_name {self.data_name!r} must be a folder's name; its place goes to --data_path")


@dataclass(frozen=True)
class Protocol:
    """What is particular to a published data set.

    Attributes:
        has_real_noise: its training pairs are mismatched as collected, so that none are shuffled.
        dev_images: only so many first images of the dev split are used, None for all.
        fold_images: `testall` is also reported in folds: consecutive groups of so many images, in file order.
        images: published number of images of each split; empty where nothing is published.
        captions_per_image: published number of captions of an image, None where nothing is published.
    """

    has_real_noise: bool = False
    dev_images: int | None = None
    fold_images: int = 1000
    images: dict[str, int] = field(default_factory=dict)
    captions_per_image: int | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that a folder of this data set holds; the first three are what training needs."""
        return tuple(self.images) or NEEDED

    def folds(self, split: str) -> int | None:
        """Return how many images a fold of `split` has; None for a split that is ranked as a whole only."""
        return self.fold_images if split == TESTALL else None


PROTOCOLS = {
    "f30k_precomp": Protocol(
        dev_images=1000, images={"train": 29_000, "dev": 1_014, "test": 1_000}, captions_per_image=5
    ),
    "coco_precomp": Protocol(
        dev_images=1000,
        images={"train": 113_287, "dev": 5_000, "test": 1_000, TESTALL: 5_000},
        captions_per_image=5,
    ),
    "cc152k_precomp": Protocol(
        has_real_noise=True, images={"train": 150_000, "dev": 1_000, "test": 1_000}, captions_per_image=1
    ),
}

REAL_NOISE = frozenset(name for name, rules in PROTOCOLS.items() if rules.has_real_noise)


def split_name(folder: Path, given: str) -> str:
    """Return the split that is meant: other releases call `dev` `val`, which is understood where no `val` lies."""
    return "dev" if given == "val" and not any(folder.glob("val_*")) else given


def protocol(data_name: str) -> Protocol:
    """Return the protocol of a published data set, or the plain one for any other name."""
    return PROTOCOLS.get(data_name, Protocol())


def locate(config: DataConfig) -> Path:
    """Return the data set's folder; `--data_path` may name that folder itself.

    Raises:
        InputError: there is no such folder; says where it was looked for.
    """
    if config.data_path is not None:
        given = Path(config.data_path)
        places = [given / config.data_name, *([given] if given.resolve().name == config.data_name else [])]
    else:
        places = [Path("data") / config.data_name, REPOSITORY / "data" / config.data_name]
    for place in places:
        if place.is_dir():
            return place
    named = Path(config.data_path or "").resolve()
    if config.data_path is not None and any(named.glob("*_caps.*")):
        raise InputError(
            f"no data set {config.data_name!r} in {named}, which is itself a data set's folder; give "
            f"--data_path {named.parent} --data_name {named.name}"
        )
    names = [there.parent.name for place in places for there in place.parent.glob("*/train_caps.*")]
    meant = did_you_mean(config.data_name, names)
    looked = " and ".join(dict.fromkeys(str(place.resolve()) for place in places))
    raise InputError(
        f"no data set {config.data_name!r}:{meant} looked for the folder {looked}; set --data_path to the folder that "
        f"holds it (--data_name {EMBEDDED} comes with the suite and needs none)"
    )


def vocabulary_file(config: DataConfig) -> Path:
    """Return where the data set's vocabulary is, or would be written; `--vocab_path` may name the file itself."""
    name = f"{config.data_name}_vocab.json"
    if config.vocab_path is not None and config.vocab_path.endswith(".json") and not Path(config.vocab_path).is_dir():
        return Path(config.vocab_path)
    if config.vocab_path is not None:
        return Path(config.vocab_path) / name
    here = Path("vocab") / name
    return here if here.is_file() or not (REPOSITORY / "vocab" / name).is_file() else REPOSITORY / "vocab" / name
