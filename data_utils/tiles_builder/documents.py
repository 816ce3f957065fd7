"""The texts beside the data: LICENSES and README.md."""

from collections.abc import Mapping, Sequence

from data_utils.set_builder.documents import artists_table, files_table, regions_text
from data_utils.set_builder.sources import WEIGHTS, licence_lines
from data_utils.tiles_builder.captions import LONGEST
from data_utils.tiles_builder.package import GAME, NEAR
from data_utils.tiles_builder.pictures import COARSE, COPIED
from data_utils.tiles_builder.tilesets import TILESETS


def licences_text() -> str:
    """Write who made what, under which licence, and what was changed.

    Returns:
        The text of the LICENSES file.
    """
    return "\n".join(
        [
            "The tiles set is derived from the works below. Changed: sprites were cut out of the tilesets, laid on",
            "white, enlarged, shrunk to thumbnails and turned into region features; names and descriptions were",
            "lower-cased, spelled in ASCII, split into sentences and cut.",
            "",
            "The set is an adaptation of the game's data: whoever passes it on does so under CC-BY-SA-3.0 or a later",
            "version of it.",
            "",
            *licence_lines((GAME, WEIGHTS)),
            "Tilesets, as the package names them:",
            *(f"  {name}: {credit}" for name, credit in TILESETS.items()),
            "",
        ]
    )


def readme_text(
    counts: Mapping[str, int], artists: Mapping[str, Sequence[int]], concepts: int, figures: Mapping[str, float]
) -> str:
    """Describe the set.

    Args:
        counts: Pictures of each split.
        artists: For each tileset the pictures in train, dev and test.
        concepts: Number of concepts that are drawn.
        figures: "dims", "kept" (share of variance) and the signal-to-noise ratios "snr_train", "snr_dev" and
            "snr_test".

    Returns:
        The text of README.md.
    """
    train, dev, test = (counts[split] for split in ("train", "dev", "test"))
    return f"""# tiles_precomp

Pixel art from five tilesets of the game Cataclysm: Dark Days Ahead with the game's own names and sentences:
{train} training, {dev} dev and {test} test pictures of {concepts} concepts, three captions a picture.
The first caption is the name, the second a sentence of the description, the third the name with the same or
another sentence; sentences are cut off after {LONGEST} words. Names and sentences that two concepts share are left
out, and with them concepts that have too few others (a name of several concepts is kept before a sentence).

CC-BY-SA-3.0: who passes this folder on does so under the same licence (LICENSES). That is why it is no part of the
repository.

{files_table(round(figures["dims"]), "three", "name of its tile", "kind of thing")}

{artists_table(artists)}

Dev and test hold one picture a concept, of a tileset whose drawing of that concept is not in train; at least one
other tileset's drawing of it is. A sprite that is used for several concepts is there for one of them. Tilesets copy
each other: of two drawings of one concept that differ by less than {COPIED} levels on average at {COARSE} x {COARSE} in
colour one is kept. Pictures with a mean absolute difference under {NEAR} grey levels at 16 x 16 never straddle splits.

{regions_text(figures)}

Built from the Debian package {GAME.package} {GAME.version}:

    pip install -r requirements-extract.txt
    python -m data_utils.tiles_builder --output data/tiles_precomp
    python -m vocab.build --data_name tiles_precomp
"""
