"""Command that builds the tiles set: `python -m data_utils.tiles_builder --output data/tiles_precomp`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_utils.set_builder.assembling import PictureSet, write_set
from data_utils.set_builder.config import BuilderConfig, run_builder
from data_utils.set_builder.drawings import SIZE, grey_thumbnails
from data_utils.set_builder.splits import drop_twins, make_splits, near_pairs
from data_utils.tiles_builder import documents, package
from data_utils.tiles_builder.captions import caption_sources, captions_of
from data_utils.tiles_builder.concepts import Concept, load_concepts
from data_utils.tiles_builder.package import NEAR, RULE
from data_utils.tiles_builder.pictures import Picture, copied_pairs, enlarge, find_pictures
from data_utils.tiles_builder.tilesets import TILESETS, Tileset
from runtime.errors import exit_on_input_error
from runtime.flags import OneLineParser, add_flags, flag, from_namespace

Told = tuple[Concept, str, list[str]]
"""A concept, its name if no other has it, and the sentences that no other has."""


def told_concepts(root: Path, tilesets: dict[str, Tileset]) -> list[Told]:
    """Read the concepts that some tileset draws and that have captions enough.

    Args:
        root: The game's folder.
        tilesets: The tilesets by name.

    Returns:
        The concepts, those that most tilesets draw first: of a drawing for several concepts that one gets it.
    """
    drawn = {
        c.code: sum(c.code in tileset.tiles for tileset in tilesets.values()) for c in load_concepts(root / "json")
    }
    concepts = [concept for concept in load_concepts(root / "json") if drawn[concept.code]]
    told = [
        (c, *texts) for c, texts in zip(concepts, caption_sources(concepts), strict=True) if captions_of(c, *texts, 0)
    ]
    return sorted(told, key=lambda entry: (-drawn[entry[0].code], entry[0].code))


def split_pictures(found: Sequence[Picture], told: Sequence[Told]) -> dict[str, list[int]]:
    """Leave out copies and split the rest.

    Args:
        found: The pictures.
        told: The concepts.

    Returns:
        Indices of the pictures of "train", "dev" and "test", in row order.

    Raises:
        ValueError: If too few concepts can be held out.
    """
    grey = np.concatenate([grey_thumbnails(enlarge(picture.pixels)[None]) for picture in found])
    copies = copied_pairs(found)
    print(f"{len(drop_twins(found, copies))} copies of another tileset's drawing left out", flush=True)
    pairs = np.unique(np.concatenate([near_pairs(grey, NEAR), copies]), axis=0)
    return make_splits(found, [concept.code for concept, _, _ in told], pairs, RULE)


def enlarged(found: Sequence[Picture], path: Path) -> np.ndarray:
    """Enlarge pictures into a file.

    Args:
        found: The pictures.
        path: The file.

    Returns:
        Memory-mapped uint8 of shape (pictures, SIZE, SIZE, 3).
    """
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (len(found), SIZE, SIZE, 3))
    for number, picture in enumerate(found):
        pixels[number] = enlarge(picture.pixels)
    pixels.flush()
    return pixels


def build(output: Path, work: Path, config: "TilesConfig") -> None:
    """Build the set.

    Args:
        output: Folder for the finished files.
        work: Folder for the package, pictures and feature maps.
        config: The flags.
    """
    archive = package.fetch(work) if config.package is None else Path(config.package)
    package.check(archive)
    root = package.unpack(archive, work / "unpacked")
    tilesets = {name: Tileset(root / "gfx" / name) for name in TILESETS}
    told = told_concepts(root, tilesets)
    found = find_pictures([concept for concept, _, _ in told], tilesets)
    print(f"{len(found)} drawings of {len({p.concept for p in found})} concepts", flush=True)

    chosen = split_pictures(found, told)
    texts, records = {}, {}
    for split, rows in chosen.items():
        shown = [(*told[found[i].concept], found[i].artist) for i in rows]
        texts[split] = [captions_of(c, name, own, list(TILESETS).index(a)) for c, name, own, a in shown]
        records[split] = [{"concept": c.code, "label": c.name, "artist": a, "group": c.kind} for c, _, _, a in shown]
    kept = [found[i] for rows in chosen.values() for i in rows]
    ends = np.cumsum([0, *map(len, chosen.values())]).tolist()
    splits = {split: list(range(*span)) for split, span in zip(chosen, pairwise(ends), strict=True)}
    made = PictureSet(kept, enlarged(kept, work / "pixels.npy"), splits, texts, records)
    concepts = len({picture.concept for picture in kept})
    readme = partial(documents.readme_text, made.counts(), made.shares(list(TILESETS)), concepts)
    write_set(
        output,
        work,
        made,
        lambda figures: {"LICENSES": documents.licences_text(), "README.md": readme(figures)},
        dims=config.dims,
        step=config.step,
    )


@dataclass(frozen=True)
class TilesConfig(BuilderConfig):
    """Flags of this builder."""

    package: str | None = flag(
        None,
        f"the file {package.FILE}, downloaded by hand (default: apt-get downloads it into the work folder)",
        metavar="FILE",
    )


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and build the set."""
    parser = OneLineParser(prog="python -m data_utils.tiles_builder", description="Build a set of pixel-art pictures.")
    add_flags(parser, "builder", TilesConfig)
    config = from_namespace(TilesConfig, parser.parse_args(argv))
    run_builder(config, lambda output, work: build(output, work, config))


if __name__ == "__main__":
    main()
