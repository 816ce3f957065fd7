"""Search a gallery with a trained run: images for words, captions for an image.

    python -m tools.search --mode_path output/RUN/checkpoint_dev_best.pth.tar "a red umbrella" --html found.html
    python -m tools.search --mode_path CHECKPOINT --image 17
    python -m tools.search --mode_path CHECKPOINT --queries queries.txt --index my_index

The gallery is a split of the data set. Candidates are found by pooled vectors and put in order by the real similarity,
the mean of the run's networks. With `--index` the vectors are computed once and kept; a gallery of a million images
then stays on disk. An index whose checkpoint or gallery has changed is noticed and built anew.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_utils.captions import read_captions
from data_utils.catalog import vocabulary_file
from data_utils.precomputed import PrecomputedSplit
from data_utils.stored import open_split, stored_data
from models.encoded_split import Split
from models.keys import SplitSubset
from models.matcher import Matcher
from models.precision import ScoringConfig, prepare_scoring
from models.restored import restore
from runtime.checkpoint import load_checkpoint
from runtime.device import choose_device
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace, require, word
from runtime.log import Progress
from tools.extract.__main__ import GRID, LITE0
from tools.pages.pictures import find_pictures
from tools.search.engine import captions_for_images, images_for_texts
from tools.search.index_folder import IndexFolder, identity
from tools.search.picture_file import OnePicture
from tools.search.queries import read_queries, read_query_file
from tools.search.results import Gallery, Result, result_page, results_of, text_of
from vocab.vocabulary import Vocabulary


@dataclass(frozen=True)
class SearchConfig:
    """Words and flags of a search."""

    query: str | None = word('what the picture shows, in quotes: "a red umbrella"', optional=True)
    mode_path: str | None = flag(None, "checkpoint to search with (required)", metavar="FILE")
    queries: str | None = flag(None, "file of queries, one a line", metavar="FILE")
    image: str | None = flag(
        None, "find captions for an image: its number in the gallery, or a picture file", metavar="FILE"
    )
    top_k: int = flag(10, "results a query")
    split: str = flag("test", "split that is searched: train, dev, test, ...")
    html: str | None = flag(None, "write the results, with thumbnails, to this HTML file", metavar="FILE")
    index: str | None = flag(
        None, "folder that keeps the gallery's vectors for the next search; made if not there", metavar="DIR"
    )
    shortlist: int = flag(64, "SGR, SAF, SCAN: candidates a query whose real scores are computed")
    data_name: str | None = flag(None, "data set (default: the checkpoint's)")
    data_path: str | None = flag(
        None, "folder that holds the data set's folder (default: the checkpoint's)", metavar="DIR"
    )
    vocab_path: str | None = flag(None, "folder of the vocabulary (default: the checkpoint's)", metavar="DIR")
    pictures: str | None = flag(None, "folder that the paths in {split}_images.txt start from", metavar="DIR")
    no_pictures: bool = flag(False, "leave pictures out")
    backbone: str = flag(
        LITE0,
        "for --image FILE: what the data set's features were extracted with (tools.extract)",
        metavar="FILE",
    )
    grid: int = flag(GRID, "for --image FILE: cells a side that the features were extracted with")
    gpu: str = flag("0", "GPU index, or cpu; without CUDA the CPU is used")

    def __post_init__(self) -> None:
        require(self, "mode_path", "give a checkpoint that run.py wrote")
        given = [name for name in ("query", "queries", "image") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                'give one of: a query in quotes ("a red umbrella"), --queries FILE, --image NUMBER or FILE'
            )
        check_range(self, "top_k", low=1)
        check_range(self, "shortlist", low=1)
        check_range(self, "grid", low=1)
        if self.html is not None and (Path(self.html).is_dir() or not Path(self.html).resolve().parent.is_dir()):
            raise InputError(f"--html {self.html} cannot be written: it is a folder, or its folder does not exist")

    @property
    def image_number(self) -> int | None:
        """The gallery's image that is asked with."""
        return int(self.image) if self.image is not None and self.image.isdecimal() else None


@dataclass(frozen=True)
class OpenedGallery:
    """A checkpoint's networks and the gallery."""

    checkpoint: dict[str, Any]
    matchers: list[Matcher]
    split: PrecomputedSplit
    vocabulary: Vocabulary
    gallery: Gallery
    device: torch.device


def note(text: str) -> None:
    """Print what could not be shown."""
    print(f"note: {text}", file=sys.stderr)


def open_gallery(config: SearchConfig) -> OpenedGallery:
    """Open the checkpoint and the split that is searched.

    Raises:
        InputError: they do not fit together, or are not there.
    """
    path = config.mode_path
    assert path is not None
    checkpoint, device = load_checkpoint(path), choose_device(config.gpu)
    matchers = restore(checkpoint, path)
    places = {"data_name": config.data_name, "data_path": config.data_path, "vocab_path": config.vocab_path}
    data = stored_data(checkpoint, path, **places)
    split = open_split(data, config.split, checkpoint, path)
    for matcher in matchers:
        matcher.to(device)
    prepare_scoring(matchers, ScoringConfig(), device)
    folder = split.regions.path.parent
    pictures = None
    if not config.no_pictures:
        pictures = find_pictures(folder, split.name, split.num_images, config.pictures, note)
    lines = read_captions(folder, split.name)
    captions = [lines[k] for k in split.line_of_caption.tolist()]
    gallery = Gallery(f"{data.data_name} {split.name}", captions, split.image_of_caption, pictures)
    return OpenedGallery(checkpoint, matchers, split, Vocabulary.load(vocabulary_file(data)), gallery, device)


def image_query(config: SearchConfig, split: PrecomputedSplit) -> Split:
    """Return the image that is asked with.

    Raises:
        InputError: no such number, or a picture file whose features the networks do not know.
    """
    assert config.image is not None
    number = config.image_number
    if number is None:
        return OnePicture(
            Path(config.image), split.region_shape, backbone=config.backbone, grid=config.grid, gpu=config.gpu
        )
    if number >= split.num_images:
        raise InputError(
            f"--image {number} is not in the gallery: {split.name} has images 0 to {split.num_images - 1}; a picture "
            f"file of that name is given as ./{number}"
        )
    return SplitSubset(split, np.array([number]), np.zeros(0, dtype=np.int64))


def search(config: SearchConfig) -> list[Result]:
    """Answer the queries, print the results, write the page; return the results."""
    opened, is_image = open_gallery(config), config.image is not None
    split, device = opened.split, opened.device
    texts = image = None
    if config.image is not None:
        image = image_query(config, split)
    else:
        given = [config.query or ""] if config.queries is None else read_query_file(Path(config.queries))
        texts = read_queries(given, opened.vocabulary)
    with contextlib.ExitStack() as stack:
        folder = config.index or stack.enter_context(tempfile.TemporaryDirectory())
        started = time.perf_counter()
        index = IndexFolder(Path(folder), identity(Path(config.mode_path or ""), split), print)
        networks = index.networks(opened.matchers, split, device)
        bar = Progress("gallery", len(split) if is_image else split.num_images, unit="rows")
        stack.callback(bar.close)
        side = (index.captions if is_image else index.images)(networks, split, device, bar.advance)
        ready = time.perf_counter()
        counts = {"top_k": config.top_k, "shortlist": config.shortlist}
        if texts is not None:
            found = images_for_texts(networks, split, side, texts, device, **counts)
            remarks = [f"unknown words, left to chance: {', '.join(u)}" if u else "" for u in texts.unknown]
            results = results_of(texts.texts, remarks, found)
        else:
            assert image is not None
            found = captions_for_images(networks, split, side, image, device, **counts)
            results = results_of([f"image {config.image}"], [""], found, config.image_number)
        seconds = time.perf_counter() - ready
    for result in results:
        print(text_of(result, opened.gallery, is_image=is_image) + "\n")
    rows = f"{len(side.keys):,} {'captions' if is_image else 'images'} of {opened.gallery.name}"
    how = f"{rows}: every one is scored"
    if not all(network.keys.are_exact for network in networks):
        how = f"{rows}: the {max(config.shortlist, config.top_k)} best by a cheap estimate are scored"
    hint = "" if config.index else "; --index DIR keeps it"
    asked = "1 query" if len(results) == 1 else f"{len(results):,} queries"
    print(f"{rows}: index ready in {ready - started:.1f} s{hint}; {asked} in {seconds:.2f} s")
    if config.html is not None:
        judged_by = str(config.mode_path)
        page = result_page(results, opened.gallery, judged_by=judged_by, how=f"{how}.", is_image=is_image)
        print(f"{config.html}: {page.write(Path(config.html)) / 1024:.0f} KiB")
    return results


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and search."""
    parser = OneLineParser(prog="python -m tools.search", description="Search a gallery by words or by an image.")
    add_flags(parser, "search", SearchConfig)
    search(from_namespace(SearchConfig, parser.parse_args(argv)))


if __name__ == "__main__":
    main()
