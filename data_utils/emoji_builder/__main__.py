"""Command that builds the emoji set: `python -m data_utils.emoji_builder --output data/emoji_precomp`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_utils.emoji_builder import captions, documents, pictures
from data_utils.emoji_builder.concepts import load_concepts
from data_utils.emoji_builder.sources import ARTISTS, NAMES, NEAR, RULE, fetch
from data_utils.set_builder.assembling import PictureSet, write_set
from data_utils.set_builder.config import BuilderConfig, run_builder
from data_utils.set_builder.drawings import grey_thumbnails
from data_utils.set_builder.splits import make_splits, near_pairs
from data_utils.set_builder.texts import plain
from runtime.errors import exit_on_input_error
from runtime.flags import OneLineParser, add_flags, from_namespace


def build(output: Path, work: Path, dims: int, step: float) -> None:
    """Build the set.

    Args:
        output: Folder for the finished files.
        work: Folder for packages and feature maps.
        dims: Dimensions of a region.
        step: Common step of the 8-bit storage.
    """
    concepts = load_concepts(fetch(NAMES, work))
    sets = [pictures.IconSet(artist, fetch(source, work)) for artist, source in ARTISTS.items()]
    found = pictures.find_pictures(concepts, sets)
    print(f"{len(found)} pictures of {len(concepts)} concepts", flush=True)

    pixels = np.stack([pictures.render(picture) for picture in found])
    pairs = near_pairs(grey_thumbnails(pixels), NEAR)
    chosen = make_splits(found, [concept.code for concept in concepts], pairs, RULE)
    artists = list(ARTISTS)
    pools = captions.caption_pools(concepts)
    texts, records = {}, {}
    for split, rows in chosen.items():
        shown = [(concepts[found[i].concept], pools[found[i].concept], found[i].artist) for i in rows]
        texts[split] = [captions.captions_of(c, pool, artists.index(artist)) for c, pool, artist in shown]
        records[split] = [
            {"concept": c.code, "label": plain(c.label), "artist": artist, "group": c.group} for c, _, artist in shown
        ]
    made = PictureSet(found, pixels, chosen, texts, records)
    readme = partial(documents.readme_text, made.counts(), made.shares(artists), len(concepts))
    write_set(
        output,
        work,
        made,
        lambda figures: {"LICENSES": documents.licences_text(), "README.md": readme(figures)},
        dims=dims,
        step=step,
    )


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and build the set."""
    parser = OneLineParser(prog="python -m data_utils.emoji_builder", description="Build the embedded emoji set.")
    add_flags(parser, "builder", BuilderConfig)
    config = from_namespace(BuilderConfig, parser.parse_args(argv))
    run_builder(config, lambda output, work: build(output, work, config.dims, config.step))


if __name__ == "__main__":
    main()
