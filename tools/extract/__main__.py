"""Region features of your own pictures, in the suite's layout.

    python -m tools.extract --images pictures --captions captions.csv --output data/mine_precomp --split train
    python -m tools.extract --images pictures --captions captions.json --output data/mine_precomp --split dev \\
        --backbone models/dinov2-base --boxes boxes.json --num_boxes 36

Writes `{split}_ims.h5` (or npy), `{split}_caps.txt`, `{split}_images.txt` (the pictures' names) and
`{split}_images_folder.txt` (where they are, in full), whole or not at all. Regions are the cells of a grid, or boxes.
The backbone is EfficientNet-Lite0, a transformers folder, or an ONNX file. All pictures are decoded once before the
first is computed, so that a broken one, or a box outside, is told in minutes. Pictures are taken as they are stored: a
camera's note that a picture is to be turned is not followed, and boxes are in stored pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from runtime.device import choose_device
from runtime.errors import InputError, exit_on_input_error
from runtime.files import write_atomically
from runtime.flags import check_choices, check_range, flag, require
from runtime.log import Progress
from tools.command import folder_at_once, parsed
from tools.convert.conversion import WRITERS, check_space, narrowed
from tools.extract.backbones import INSTALL, LITE0, BackboneOptions, open_backbone
from tools.extract.listing import SPLIT_NAMES, Listing, read_listing
from tools.extract.regions import GRID, Image, Regions, check_inside, chosen_boxes, read_boxes
from tools.picture_files import Pictures, picture_bytes

MOST_TOLD = 10
"""So many skipped pictures are named."""


@dataclass(frozen=True)
class ExtractConfig:
    """Flags of the extraction."""

    images: str | None = flag(None, "folder that picture names start from (required)", metavar="DIR")
    captions: str | None = flag(
        None, "pictures and their captions: .json, .csv, .tsv or .txt (required)", metavar="FILE"
    )
    output: str | None = flag(None, "folder of the data set to write into (required)", metavar="DIR")
    split: str = flag("train", "split to write; of a file that tells splits, the part to read", choices=SPLIT_NAMES)
    captions_per_image: int | None = flag(None, "keep so many first captions of each picture (default: all)")
    backbone: str = flag(
        LITE0, "lite0 (EfficientNet-Lite0), a folder of a transformers vision model, or an .onnx file", metavar="FILE"
    )
    size: int | None = flag(None, "side in pixels of the squares that the backbone gets (default: its own)")
    mean: str | None = flag(None, "R,G,B mean of values from 0 to 1, for an .onnx file (default: ImageNet's)")
    std: str | None = flag(None, "R,G,B deviation of values from 0 to 1, for an .onnx file (default: ImageNet's)")
    onnx_output: str | None = flag(None, "output of an .onnx file to take (default: its first)")
    grid: int | None = flag(None, f"regions are grid x grid cells of the picture (default: {GRID}, unless --boxes)")
    boxes: str | None = flag(
        None, "regions are the boxes in this file: .json, .csv or .tsv with x1, y1, x2, y2 in pixels", metavar="FILE"
    )
    num_boxes: int | None = flag(None, "take so many first boxes of each picture (default: all)")
    format: str = flag("h5", "file of the features", choices=("h5", "npy"))
    dtype: str = flag("float32", "numbers written", choices=("float32", "float16"))
    skip_bad: bool = flag(False, "leave out pictures that cannot be read; without it they end the command")
    batch_size: int = flag(16, "pictures, or boxes, that the backbone gets at once")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")

    def __post_init__(self) -> None:
        require(self, "images", "name the folder of the pictures")
        require(self, "captions", "name the file of pictures and captions")
        require(self, "output", "name the folder to write into")
        check_choices(self)
        for name in ("captions_per_image", "size", "grid", "num_boxes", "batch_size"):
            if getattr(self, name) is not None:
                check_range(self, name, low=1)
        if self.boxes is not None and self.grid is not None:
            raise InputError("--grid and --boxes both say what regions are; give one")
        if self.num_boxes is not None and self.boxes is None:
            raise InputError("--num_boxes needs --boxes")
        if not Path(self.images or "").is_dir():
            raise InputError(f"--images {self.images} is no folder")

    @property
    def backbone_options(self) -> BackboneOptions:
        """What is said of the backbone."""
        mean, std = (three_numbers(name, getattr(self, name)) for name in ("mean", "std"))
        if std is not None and min(std) <= 0:
            raise InputError(f"--std {self.std} must be greater than 0")
        return BackboneOptions(self.size, mean, std, self.onnx_output)


def three_numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """Read a value a channel from a flag.

    Raises:
        InputError: it is not three finite numbers.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not np.isfinite(values).all():
        raise InputError(f"--{name} {text!r} must be three numbers with commas between, for red, green and blue")
    return values


def readable(
    listing: Listing, pictures: Pictures, boxes: dict[str, np.ndarray] | None, *, skip_bad: bool
) -> tuple[list[int], list[str]]:
    """Decode every picture once; return the numbers of those that can be read, and why the others cannot.

    Boxes of the pictures that can be read are cut to them.

    Raises:
        InputError: a picture cannot be read and is not to be skipped, or a box lies outside its picture.
    """
    good, skipped = [], []
    with contextlib.closing(Progress("looking at pictures", len(pictures), unit="pictures")) as progress:
        for number, name in enumerate(listing.pictures):
            progress.advance(1)
            try:
                height, width = pictures.pixels(number).shape[:2]
            except InputError as error:
                if not skip_bad:
                    raise InputError(f"{error}, or leave such pictures out by --skip_bad") from None
                skipped.append(str(error))
                continue
            if boxes is not None:
                boxes[name] = check_inside(boxes[name], name, width, height)
            good.append(number)
    if not good:
        raise InputError(f"none of the {len(pictures)} pictures can be read; the first: {skipped[0]}")
    return good, skipped


def feature_blocks(
    regions: Regions,
    listing: Listing,
    pictures: Pictures,
    numbers: Sequence[int],
    boxes: dict[str, np.ndarray] | None,
    block: int,
) -> Iterator[np.ndarray]:
    """Yield the features (n, R, D) of the pictures `numbers`, up to `block` pictures at a time."""
    with contextlib.closing(Progress("features", len(numbers), unit="pictures")) as progress:
        for start in range(0, len(numbers), block):
            inputs = [
                regions.inputs_of(pictures.pixels(number), None if boxes is None else boxes[listing.pictures[number]])
                for number in numbers[start : start + block]
            ]
            yield regions.compute(np.concatenate(inputs), len(inputs))
            progress.advance(len(inputs))


def check_is_new(config: ExtractConfig) -> None:
    """Raise `InputError` if a file of the split is there already."""
    ends = [*(f"ims{kind}" for kind in WRITERS), "caps.txt", "caps.tsv", "images.txt", "images_folder.txt"]
    for path in (Path(config.output or "") / f"{config.split}_{end}" for end in ends):
        if path.exists():
            raise InputError(f"--output: {path} exists; nothing is written over: delete it or name another folder")


def write_split(
    config: ExtractConfig, listing: Listing, shape: tuple[int, int, int], blocks: Iterable[np.ndarray]
) -> None:
    """Write all files of the split, or none; the features get their name last.

    Args:
        config: flags.
        listing: the N pictures and their captions.
        shape: (N, R, D).
        blocks: features (n, R, D) float32 of the pictures in order.

    Raises:
        InputError: the folder cannot be written, or a number is not finite or too large for the type.
    """
    output, dtype = Path(config.output or ""), np.dtype(config.dtype)
    texts = {
        "caps": [caption for own in listing.captions for caption in own],
        "images": listing.pictures,
        "images_folder": [str(Path(config.images or "").resolve())],
    }
    with folder_at_once(output, ()) as folder:
        features = folder / f"{config.split}_ims.{config.format}"
        check_space(output / features.name, int(np.prod(shape)) * dtype.itemsize)
        with contextlib.closing(WRITERS[features.suffix](features, shape, dtype, is_new=True)) as writer:
            done = 0
            for block in blocks:
                if not (is_finite := np.isfinite(block).all(axis=(1, 2))).all():
                    name = listing.pictures[done + int((~is_finite).argmax())]
                    raise InputError(f"the features of {name} are not finite; the backbone cannot be used on it")
                writer.write(done, narrowed(block, dtype, output / f"{config.split}_images.txt", done))
                done += len(block)
            assert done == shape[0]
            writer.sync()
        for name, lines in texts.items():
            write_atomically(folder / f"{config.split}_{name}.txt", ("\n".join(lines) + "\n").encode())


def _read_picture(folder: Path, names: Sequence[str], number: int) -> bytes:
    return picture_bytes(folder / names[number])


def extract(config: ExtractConfig) -> list[str]:
    """Write a split; return what to say of it.

    Raises:
        InputError: anything missing, broken or not fitting together.
    """
    if Image is None:
        raise InputError(f"tools.extract needs Pillow, which is not installed; run: {INSTALL}")
    folder, path = Path(config.images or ""), Path(config.captions or "")
    check_is_new(config)
    listing = read_listing(path, config.split, config.captions_per_image)
    boxes: dict[str, np.ndarray] | None = None
    if config.boxes is not None:
        place = Path(config.boxes)
        boxes = chosen_boxes(read_boxes(place), listing.pictures, place, config.num_boxes)
    grid, device = None if boxes is not None else config.grid or GRID, choose_device(config.gpu)
    regions = Regions(
        open_backbone(config.backbone, config.backbone_options, device),
        config.backbone,
        grid=grid,
        batch_size=config.batch_size,
    )
    names = [str(folder / name) for name in listing.pictures]
    pictures = Pictures(names, partial(_read_picture, folder, listing.pictures))
    good, skipped = readable(listing, pictures, boxes, skip_bad=config.skip_bad)
    num_regions = regions.shape[0] if boxes is None else len(boxes[listing.pictures[0]])
    block = config.batch_size if boxes is None else max(1, config.batch_size // num_regions)
    kept, shape = listing.part(good), (len(good), num_regions, regions.shape[1])
    write_split(config, kept, shape, feature_blocks(regions, listing, pictures, good, boxes, block))
    each = len(kept.captions[0])
    said = [f"skipped: {why}" for why in skipped[:MOST_TOLD]]
    target = f"{config.output}/{config.split}_ims.{config.format}"
    said += [f"{target}: {shape[0]} pictures x {shape[1]} regions x {shape[2]} {config.dtype}, {each} captions each"]
    return said + ([f"{len(skipped)} of {len(pictures)} pictures were skipped: they cannot be read"] if skipped else [])


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Extract a split."""
    (config,) = parsed("tools.extract", "Region features of your own pictures.", argv, {"extraction": ExtractConfig})
    for line in extract(config):
        print(line)


if __name__ == "__main__":
    main()
