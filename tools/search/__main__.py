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

import numpy as np

from data_utils.captions import read_captions
from data_utils.catalog import vocabulary_file
from data_utils.precomputed import PrecomputedSplit
from models.ensemble import Split
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import check_range, flag, require, word
from runtime.log import Progress
from tools.command import OpenedCheckpoint, PlacesConfig, check_writable, open_checkpoint, parsed
from tools.extract.backbones import LITE0
from tools.extract.regions import GRID
from tools.pages.pictures import find_pictures
from tools.search.index_folder import IndexFolder, identity
from tools.search.queries import OnePicture, read_queries, read_query_file
from tools.search.results import Gallery, Result, result_page, results_of, text_of
from tools.search.retrieval import captions_for_images, images_for_texts
from tools.search.scores import SplitSubset
from vocab.vocabulary import Vocabulary


@dataclass(frozen=True)
class SearchConfig(PlacesConfig):
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
    pictures: str | None = flag(None, "folder that the paths in {split}_images.txt start from", metavar="DIR")
    no_pictures: bool = flag(False, "leave pictures out")
    backbone: str = flag(
        LITE0, "for --image FILE: what the data set's features were extracted with (tools.extract)", metavar="FILE"
    )
    grid: int = flag(GRID, "for --image FILE: cells a side that the features were extracted with")

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
        check_writable("html", self.html)

    @property
    def image_number(self) -> int | None:
        """The gallery's image that is asked with."""
        return int(self.image) if self.image is not None and self.image.isdecimal() else None


def note(text: str) -> None:
    """Print what could not be shown."""
    print(f"note: {text}", file=sys.stderr)


def gallery_of(opened: OpenedCheckpoint, config: SearchConfig) -> Gallery:
    """Return the split that is searched, as people see it."""
    split, pictures = opened.split, None
    if not config.no_pictures:
        pictures = find_pictures(opened.folder, split.name, split.num_images, config.pictures, note)
    lines = read_captions(opened.folder, split.name)
    captions = [lines[k] for k in split.line_of_caption.tolist()]
    return Gallery(f"{opened.stored.data_name} {split.name}", captions, split.image_of_caption, pictures)


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
    assert config.mode_path is not None
    opened, is_image = open_checkpoint(config.mode_path, config.split, config), config.image is not None
    split, device, gallery = opened.split, opened.device, gallery_of(opened, config)
    texts = image = None
    if config.image is not None:
        image = image_query(config, split)
    else:
        given = [config.query or ""] if config.queries is None else read_query_file(Path(config.queries))
        texts = read_queries(given, Vocabulary.load(vocabulary_file(opened.data)))
    with contextlib.ExitStack() as stack:
        folder = config.index or stack.enter_context(tempfile.TemporaryDirectory())
        started = time.perf_counter()
        index = IndexFolder(Path(folder), identity(Path(config.mode_path), split), print)
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
        print(text_of(result, gallery, is_image=is_image) + "\n")
    rows = f"{len(side.keys):,} {'captions' if is_image else 'images'} of {gallery.name}"
    how = f"{rows}: every one is scored"
    if not all(network.keys.are_exact for network in networks):
        how = f"{rows}: the {max(config.shortlist, config.top_k)} best by a cheap estimate are scored"
    hint = "" if config.index else "; --index DIR keeps it"
    asked = "1 query" if len(results) == 1 else f"{len(results):,} queries"
    print(f"{rows}: index ready in {ready - started:.1f} s{hint}; {asked} in {seconds:.2f} s")
    if config.html is not None:
        judged_by = str(config.mode_path)
        page = result_page(results, gallery, judged_by=judged_by, how=f"{how}.", is_image=is_image)
        print(f"{config.html}: {page.write(Path(config.html)) / 1024:.0f} KiB")
    return results


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and search."""
    (config,) = parsed("tools.search", "Search a gallery by words or by an image.", argv, {"search": SearchConfig})
    search(config)


if __name__ == "__main__":
    main()
